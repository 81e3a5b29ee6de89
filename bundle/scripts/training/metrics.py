# SPDX-License-Identifier: Apache-2.0
"""Validation metric: how many dB better than cubic interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from ignite.metrics import Metric

from ..networks.rdn import upsample_cubic

__all__ = ["PSNRGain"]


class PSNRGain(Metric):
    """Mean over the validation patches of ``PSNR(network) - PSNR(cubic)``, in dB.

    The data range cancels in the difference. Outputs are dictionaries with ``image`` (LR), ``pred`` and ``label`` (HR).
    """

    required_output_keys = ("image", "pred", "label")

    def __init__(self, scale_factor: int, output_transform: Callable = lambda output: output) -> None:
        self.scale_factor = scale_factor
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forget everything."""
        self._sum, self._count = 0.0, 0

    def update(self, output: Sequence[torch.Tensor]) -> None:
        """Add a batch."""
        image, pred, label = (tensor.float() for tensor in output)
        cubic = upsample_cubic(image, self.scale_factor)
        gain = 10 * torch.log10(_mse(cubic, label) / _mse(pred, label))
        self._sum += float(gain.sum())
        self._count += len(gain)

    def compute(self) -> float:
        """Mean gain in dB; NaN without data."""
        return self._sum / self._count if self._count else float("nan")


def _mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(dim=1).clamp_min(1e-12)
