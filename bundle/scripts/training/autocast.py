# SPDX-License-Identifier: Apache-2.0
"""Mixed precision on any device. MONAI's trainers use autocast on CUDA only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

__all__ = ["AutocastInferer"]


class AutocastInferer(Inferer):
    """Forward pass under autocast, with the result in float32.

    Args:
        dtype: ``bfloat16``, ``float16``, or ``None`` for full precision.
        gradients_scaled: whether the trainer scales its gradients; without scaling, those of ``float16`` would vanish.
        channels_last: convert the input to the memory format that is fastest in oneDNN and cuDNN.
    """

    def __init__(self, dtype: str | None = None, channels_last: bool = True, gradients_scaled: bool = False) -> None:
        super().__init__()
        allowed = (None, "bfloat16", "float16") if gradients_scaled else (None, "bfloat16")
        if dtype not in allowed:
            raise ValueError(f"autocast must be one of {allowed} in this stage, got {dtype!r}; correct the id")
        self.dtype = getattr(torch, dtype) if dtype else None
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """``network(inputs)``."""
        inputs = inputs.contiguous(memory_format=self.memory_format)
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return network(inputs, *args, **kwargs).float()
