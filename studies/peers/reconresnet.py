# SPDX-License-Identifier: Apache-2.0
"""ReconResNet: a supervised residual network on the interpolated image.

Re-implementation from S. Chatterjee et al., ReconResNet: Regularised residual learning for MR image reconstruction of
undersampled Cartesian and radial data, Comput. Biol. Med. 143, 2022: a 7 x 7 convolution, two strided convolutions
down, residual blocks regularised by dropout, two transposed convolutions up, a 7 x 7 convolution. The input is the
zero-filled (here: interpolated) image, and the network predicts its residual.

Differences from the paper: fewer channels and blocks, so that the network converges on a CPU (the sizes are in the
table's JSON); L1 loss like the other rows; training on planes of HR volumes that are made thick
(:mod:`studies.peers.supervised`) instead of undersampled k-space.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .scan import InterpolatedInput, started_small

__all__ = ["ReconResNet"]


def _step(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.InstanceNorm2d(channels, affine=True), nn.PReLU())


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _step(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"), channels),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class _Body(nn.Module):
    def __init__(self, features: int, blocks: int, dropout: float) -> None:
        super().__init__()
        wide, widest = 2 * features, 4 * features
        self.layers = nn.Sequential(
            _step(nn.Conv2d(1, features, 7, padding=3), features),
            _step(nn.Conv2d(features, wide, 3, stride=2, padding=1), wide),
            _step(nn.Conv2d(wide, widest, 3, stride=2, padding=1), widest),
            *[_ResidualBlock(widest, dropout) for _ in range(blocks)],
            _step(nn.ConvTranspose2d(widest, wide, 4, stride=2, padding=1), wide),
            _step(nn.ConvTranspose2d(wide, features, 4, stride=2, padding=1), features),
            started_small(nn.Conv2d(features, 1, 7, padding=3)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        padded = F.pad(image, (0, -width % 4, 0, -height % 4), mode="replicate")
        return self.layers(padded)[..., :height, :width]


class ReconResNet(InterpolatedInput):
    """Residual network between two strided and two transposed convolutions.

    Args:
        features: channels at full resolution; the blocks have four times as many.
        blocks: number of residual blocks.
        dropout: probability with which a channel in a block is dropped.
    """

    def __init__(self, features: int, blocks: int, dropout: float) -> None:
        super().__init__(_Body(features, blocks, dropout))
