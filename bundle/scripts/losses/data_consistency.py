# SPDX-License-Identifier: Apache-2.0
"""Anchor (beyond the paper): the super-resolved image, made thick again, must equal the acquired image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["DataConsistencyLoss"]


class DataConsistencyLoss(nn.Module):
    """``||D(x~_H) - x_L||_1`` as a mean over all slices except those at the ends.

    Args:
        degrade: D of a batch, ``(x~_H, n, positions, conditions)`` to ``(B, 1, H, n)``; see
            :class:`scripts.training.acquisition.BatchOperator`.
        margin_slices: slices left out at each end, because their profile reaches beyond the patch.

    Raises:
        ValueError: if ``margin_slices`` is negative.
    """

    def __init__(self, degrade: Callable[..., torch.Tensor], margin_slices: int) -> None:
        super().__init__()
        if margin_slices < 0:
            raise ValueError(f"margin_slices must be >= 0, got {margin_slices}; correct the id")
        self.degrade = degrade
        self.margin_slices = margin_slices

    def forward(
        self, mr: torch.Tensor, mr_thick: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """Compare the degraded with the acquired slices.

        Args:
            mr: x~_H, ``(B, 1, H, N)``.
            mr_thick: x_L, ``(B, 1, H, n)``.
            positions: ``(N,)`` positions of the thin slices, as SRNet was given them.
            condition: ``(B, 4)`` acquisition, as SRNet was given it.
        """
        inside = slice(self.margin_slices, mr_thick.shape[-1] - self.margin_slices)
        return F.l1_loss(self.degrade(mr, mr_thick.shape[-1], positions, condition)[..., inside], mr_thick[..., inside])
