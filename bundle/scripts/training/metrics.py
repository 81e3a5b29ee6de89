# SPDX-License-Identifier: Apache-2.0
"""Validation metric: PSNR gain over cubic interpolation in dB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.metrics import Metric

from ..networks.interpolation import interpolate_cubic

__all__ = ["PSNRGain"]


class PSNRGain(Metric):
    """Mean over the validation patches of ``PSNR(network) - PSNR(cubic)``, in dB.

    The data range cancels in the difference. Outputs are dictionaries with ``image`` (LR), ``pred`` and ``label`` (HR),
    and the ``positions`` of the thin slices, which an engine keeps in its batch.
    """

    required_output_keys = ("image", "pred", "label", "positions")

    def __init__(self, output_transform: Callable = lambda output: output) -> None:
        super().__init__(output_transform)

    def iteration_completed(self, engine: Any) -> None:
        """Take the output of an engine, and the positions from its batch."""
        output = self._output_transform(engine.state.output)
        self.update([*(output[key] for key in self.required_output_keys[:3]), engine.state.batch["positions"]])

    def reset(self) -> None:
        """Start anew."""
        self._sum, self._count = 0.0, 0

    def update(self, output: Sequence[torch.Tensor]) -> None:
        """Add a batch."""
        image, pred, label, positions = (tensor.float() for tensor in output)
        cubic = interpolate_cubic(image, positions[0].to(image))
        gain = 10 * torch.log10(_mse(cubic, label) / _mse(pred[:, :1], label))
        self._sum += float(gain.sum())
        self._count += len(gain)

    def compute(self) -> float:
        """Mean gain in dB; NaN without data."""
        return self._sum / self._count if self._count else float("nan")


def _mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(dim=1).clamp_min(1e-12)
