# SPDX-License-Identifier: Apache-2.0
"""Eq. 2, L_cycle: an image must not change when it is translated and translated back with its own attribute code."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["CrossCycleLoss"]


class CrossCycleLoss(nn.Module):
    """``||G_X(E^C_Y(y'), E^A_X(x)) - x||_1 + ||G_Y(E^C_X(x'), E^A_Y(y)) - y||_1``, as means over pixels."""

    def forward(
        self, mr_cycle: torch.Tensor, mr: torch.Tensor, ct_cycle: torch.Tensor, ct: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the two terms of the sum, ``mr`` and ``ct``, for ``(B, 1, H, W)`` images."""
        return {"mr": F.l1_loss(mr_cycle, mr), "ct": F.l1_loss(ct_cycle, ct)}
