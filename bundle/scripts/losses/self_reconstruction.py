# SPDX-License-Identifier: Apache-2.0
"""Eq. 1, L_self: an image decoded from its own two codes must be the same image."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["SelfReconstructionLoss"]


class SelfReconstructionLoss(nn.Module):
    """``||G_X(E^C_X(x), E^A_X(x)) - x||_1 + ||G_Y(E^C_Y(y), E^A_Y(y)) - y||_1``, as means over pixels."""

    def forward(
        self, mr_self: torch.Tensor, mr: torch.Tensor, ct_self: torch.Tensor, ct: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the two terms of the sum, ``mr`` and ``ct``, for ``(B, 1, H, W)`` images."""
        return {"mr": F.l1_loss(mr_self, mr), "ct": F.l1_loss(ct_self, ct)}
