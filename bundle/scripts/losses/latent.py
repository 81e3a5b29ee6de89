# SPDX-License-Identifier: Apache-2.0
"""Eq. 3, L_latent: the codes from which an image was made must be recoverable from it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["LatentLoss"]


class LatentLoss(nn.Module):
    """``||C^_x - C_x||_1 + ||C^_y - C_y||_1 + ||A^_x - A'_x||_1 + ||A^_y - A'_y||_1``, as means over code elements."""

    def forward(
        self,
        content_mr_again: torch.Tensor,
        content_mr: torch.Tensor,
        content_ct_again: torch.Tensor,
        content_ct: torch.Tensor,
        attribute_mr_again: torch.Tensor,
        prior_mr: torch.Tensor,
        attribute_ct_again: torch.Tensor,
        prior_ct: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Return the four terms of the sum, for content codes ``(B, C, h, w)`` and attribute codes ``(B, A)``."""
        return {
            "content_mr": F.l1_loss(content_mr_again, content_mr),
            "content_ct": F.l1_loss(content_ct_again, content_ct),
            "attribute_mr": F.l1_loss(attribute_mr_again, prior_mr),
            "attribute_ct": F.l1_loss(attribute_ct_again, prior_ct),
        }
