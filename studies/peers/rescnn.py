# SPDX-License-Identifier: Apache-2.0
"""ResCNN: residual learning with long and short skip connections. Supervised, 2D.

Re-implementation from J. Du et al., Super-resolution Reconstruction of Single Anisotropic 3D MR Images Using Residual
Convolutional Neural Network, Neurocomputing 392, 2020: residual blocks (convolution, ReLU, convolution; the short skip)
between a first and a last convolution whose features a long skip joins, on the interpolated image. The paper learns
from planes of T1-weighted volumes and relies on planes of all directions looking alike ("cross-plane
self-similarity"), as :mod:`studies.peers.supervised` does.

Differences from the paper: the network predicts the difference from cubic interpolation. The two through-plane
orientations are averaged, as for all 2D rows. The sizes are in the table's JSON.
"""

from __future__ import annotations

import torch
from torch import nn

from .scan import InterpolatedInput, started_small

__all__ = ["ResCNN"]


class _Body(nn.Module):
    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, features, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.tail = started_small(nn.Conv2d(features, 1, 3, padding=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.head(image))
        x = first
        for block in self.blocks:
            x = x + block(x)
        return self.tail(x + first)


class ResCNN(InterpolatedInput):
    """Residual blocks between two convolutions.

    Args:
        features: channels of the features.
        blocks: number of residual blocks.
    """

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__(_Body(features, blocks))
