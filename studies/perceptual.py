# SPDX-License-Identifier: Apache-2.0
"""A perceptual distance from uncalibrated features of SqueezeNet, for users who cannot get the weights of AlexNet.

LPIPS (Zhang et al., CVPR 2018) weights the differences of features by linear layers that were fitted to human
judgements for torchvision's own weights. This distance takes unweighted features (the baseline of that paper, Eq. 1
with w = 1). It therefore has a name of its own and must not be compared with any LPIPS.
"""

from __future__ import annotations

import torch
from scripts.evaluation.lpips import SliceLPIPS
from scripts.losses.features import PretrainedFeatures
from torch import nn

__all__ = ["SQUEEZE_DEFINITION", "SliceSqueeze", "SqueezeDistance"]

SQUEEZE_DEFINITION = (
    "squeeze-distance (uncalibrated; not LPIPS; lower is better): mean over the same slices of the squared difference "
    "of SqueezeNet's features, of unit length per pixel, unweighted, mean over pixels and seven depths"
)
DEPTHS = (1, 4, 7, 9, 10, 11, 12)  # the layers after which LPIPS takes features from its SqueezeNet


class SqueezeDistance(nn.Module):
    """Distance of two batches of images.

    Args:
        weights: state dict of SqueezeNet 1.1 (``features.*``).
        convention: see :class:`scripts.losses.features.PretrainedFeatures`.
    """

    def __init__(self, weights: str, convention: str) -> None:
        super().__init__()
        self.backbone = PretrainedFeatures("squeezenet", weights, convention)

    def forward(self, result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Distance ``(B,)`` of two batches ``(B, 3, H, W)`` in [-1, 1], each with three grey copies."""
        x, y = (image * self.backbone.scale + self.backbone.shift for image in (result, truth))
        total = torch.zeros(len(x), device=x.device)
        for index, layer in enumerate(self.backbone.features):
            x, y = layer(x), layer(y)
            if index in DEPTHS:
                unit = [f / f.norm(dim=1, keepdim=True).clamp(min=1e-10) for f in (x, y)]
                total = total + (unit[0] - unit[1]).square().sum(1).mean((1, 2))
        return total / len(DEPTHS)


class SliceSqueeze(SliceLPIPS):
    """The distance with the slices and the range of :class:`scripts.evaluation.lpips.SliceLPIPS`, by another network.

    Args:
        weights: see :class:`SqueezeDistance`.
        convention: see :class:`SqueezeDistance`.
        batch_pixels: largest number of pixels in one forward pass, which takes at least one slice.
        device: device of the network.
    """

    def __init__(self, weights: str, convention: str, batch_pixels: int = 2**18, device: str = "cpu") -> None:
        self.batch_pixels = batch_pixels
        self.device = torch.device(device)
        self.network = SqueezeDistance(weights, convention).eval().to(self.device)
