# SPDX-License-Identifier: Apache-2.0
"""Eq. 4, L_percep: a translated image must have the features of its source in a pretrained network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["PerceptualLoss"]


class PerceptualLoss(nn.Module):
    """``1 / CHW ||phi(y') - phi(x~)||_2^2 + 1 / CHW ||phi(x') - phi(y)||_2^2``, mean over the batch.

    Args:
        features: phi, frozen (see :class:`scripts.losses.features.PretrainedFeatures`).
        instance_norm: whether each feature map is first normalised to mean 0 and variance 1, which removes the
            contrast of the modality. Eq. 4 has no such normalisation.
    """

    def __init__(self, features: Callable[[torch.Tensor], torch.Tensor], instance_norm: bool = True) -> None:
        super().__init__()
        self.features = features
        self.instance_norm = instance_norm

    def forward(
        self, mr_to_ct: torch.Tensor, mr: torch.Tensor, ct_to_mr: torch.Tensor, ct: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the two terms of the sum, ``mr_to_ct`` and ``ct_to_mr``, for ``(B, 1, H, W)`` images."""
        # one batch for the images with gradients, and one without a graph for the others
        images = {"mr_to_ct": mr_to_ct, "mr": mr, "ct_to_mr": ct_to_mr, "ct": ct}
        features: dict[str, torch.Tensor] = {}
        for learns in (True, False):
            group = {name: image for name, image in images.items() if image.requires_grad == learns}
            if group:
                with torch.set_grad_enabled(learns):
                    found = self.features(torch.cat(list(group.values()))).float()
                    found = F.instance_norm(found) if self.instance_norm else found
                features.update(zip(group, found.split(len(ct)), strict=True))
        return {
            "mr_to_ct": F.mse_loss(features["mr_to_ct"], features["mr"]),
            "ct_to_mr": F.mse_loss(features["ct_to_mr"], features["ct"]),
        }
