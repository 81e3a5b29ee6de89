# SPDX-License-Identifier: Apache-2.0
"""A perceptual distance whose weights can be had where AlexNet's cannot: SqueezeNet's features, uncalibrated.

LPIPS (Zhang et al., CVPR 2018) weighs the features' differences by linear layers that were fitted to people's judgement
for torchvision's own weights. This distance takes the features unweighted (that paper's baseline, Eq. 1 with w = 1), so
it has a name of its own and must not be compared with any LPIPS.
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
DEPTHS = (1, 4, 7, 9, 10, 11, 12)  # after these layers, as LPIPS taps its SqueezeNet


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
        """``(B, 3, H, W)`` in [-1, 1] each, three grey copies, to ``(B,)``."""
        x, y = (image * self.backbone.scale + self.backbone.shift for image in (result, truth))
        total = torch.zeros(len(x), device=x.device)
        for index, layer in enumerate(self.backbone.features):
            x, y = layer(x), layer(y)
            if index in DEPTHS:
                unit = [f / f.norm(dim=1, keepdim=True).clamp(min=1e-10) for f in (x, y)]
                total = total + (unit[0] - unit[1]).square().sum(1).mean((1, 2))
        return total / len(DEPTHS)


class SliceSqueeze(SliceLPIPS):
    """The distance as :class:`scripts.evaluation.lpips.SliceLPIPS` takes LPIPS: same slices, same range, other network.

    Args:
        weights: see :class:`SqueezeDistance`.
        convention: see there.
        batch_pixels: bound of the pixels of one forward pass, at least one slice.
        device: where the network computes.
    """

    def __init__(self, weights: str, convention: str, batch_pixels: int = 2**18, device: str = "cpu") -> None:
        self.batch_pixels = batch_pixels
        self.device = torch.device(device)
        self.network = SqueezeDistance(weights, convention).eval().to(self.device)
