# SPDX-License-Identifier: Apache-2.0
"""DCSRN: one densely connected block. Supervised, 3D.

Re-implementation from Y. Chen et al., Brain MRI Super Resolution Using 3D Deep Densely Connected Neural Networks, ISBI
2018: a 3 x 3 x 3 convolution to ``2 k`` channels, a block of four units (batch normalisation, ELU, 3 x 3 x 3
convolution to ``k = 24`` channels), each of which sees the outputs of all units before it, and a last convolution.

Differences from the paper: the network predicts the difference from cubic interpolation, with the L1 loss; k is in the
table's JSON.
"""

from __future__ import annotations

import torch
from torch import nn

from .scan import InterpolatedInput, started_small

__all__ = ["DCSRN", "DenseBlock"]


class DenseBlock(nn.Module):
    """Units that each add ``growth`` channels to all channels before them.

    Args:
        channels: channels of the input.
        growth: k.
        units: number of units.

    Attributes:
        channels: channels of the output.
    """

    def __init__(self, channels: int, growth: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm3d(channels + i * growth),
                nn.ELU(),
                nn.Conv3d(channels + i * growth, growth, 3, padding=1),
            )
            for i in range(units)
        )
        self.channels = channels + units * growth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, channels, ...)`` to ``(B, channels + units k, ...)``."""
        for unit in self.units:
            x = torch.cat([x, unit(x)], dim=1)
        return x


class DCSRN(InterpolatedInput):
    """A convolution, a dense block, a convolution.

    Args:
        growth: k.
        units: number of units of the block.
    """

    def __init__(self, growth: int, units: int) -> None:
        block = DenseBlock(2 * growth, growth, units)
        last = started_small(nn.Conv3d(block.channels, 1, 3, padding=1))
        super().__init__(nn.Sequential(nn.Conv3d(1, 2 * growth, 3, padding=1), block, last))
