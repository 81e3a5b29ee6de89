# SPDX-License-Identifier: Apache-2.0
"""ArSSR: an implicit function that gives the intensity at any place. Supervised, 3D, any real K.

Re-implementation from Q. Wu et al., An Arbitrary Scale Super-Resolution Approach for 3D MR Images via Implicit Neural
Representation, arXiv:2110.14476. An encoder turns the LR volume into a feature map. The decoder, a perceptron with
eight layers, takes a coordinate and the feature vector that is interpolated (trilinearly) there, ``I(x) = f(x, V(x))``;
this input enters once more half-way. One network learns all K of a range.

Differences from the paper: only one axis has new positions, so the features are interpolated along it, and the
coordinate is the offset to the nearest thick slice, in slices, together with 1 / K. The encoder is a 3D residual dense
network of the table's size. The decoder predicts the difference from cubic interpolation. Each batch has a K of its own
(in the paper, each item).
"""

from __future__ import annotations

import torch
from scripts.networks.interpolation import interpolate_cubic
from torch import nn

from .dcsrn import DenseBlock
from .scan import started_small

__all__ = ["ArSSR"]


class ArSSR(nn.Module):
    """Encoder on the thick grid and perceptron at the thin slices.

    Args:
        features: channels of the feature map.
        growth: channels that each convolution of a dense block adds.
        units: convolutions per block.
        blocks: dense blocks of the encoder, each with its own skip.
        hidden: width of the perceptron.
        layers: even number of layers of the perceptron; the input enters again half-way.
    """

    def __init__(self, features: int, growth: int, units: int, blocks: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.head = nn.Conv3d(1, features, 3, padding=1)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            dense = DenseBlock(features, growth, units)
            self.blocks.append(nn.Sequential(dense, nn.Conv3d(dense.channels, features, 1)))
        told, half = features + 2, layers // 2
        # convolutions of one voxel apply the same perceptron at every place
        self.first = _perceptron(told, hidden, half)
        self.second = _perceptron(hidden + told, hidden, layers - half - 1)
        self.last = started_small(nn.Conv3d(hidden, 1, 1))

    def forward(self, image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, W, n)`` to ``(B, 1, H, W, N)`` at the positions; of the condition only 1 / K is used."""
        x = self.head(image)
        for block in self.blocks:
            x = x + block(x)
        last = image.shape[-1] - 1
        place = positions.clamp(0, last)
        before = place.floor().long()
        share = (place - before).to(x.dtype)
        between = x[..., before] * (1 - share) + x[..., (before + 1).clamp(max=last)] * share
        offset = (
            (positions - positions.round().clamp(0, last)).to(x.dtype).expand(*between.shape[:1], 1, *between.shape[2:])
        )
        factor = condition[:, :1, None, None, None].to(x.dtype).expand_as(offset)
        told = torch.cat([between, offset, factor], dim=1)
        return interpolate_cubic(image, positions) + self.last(self.second(torch.cat([self.first(told), told], dim=1)))


def _perceptron(channels: int, hidden: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Conv3d(channels if index == 0 else hidden, hidden, 1), nn.ReLU()]
    return nn.Sequential(*parts)
