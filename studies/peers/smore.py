# SPDX-License-Identifier: Apache-2.0
"""SMORE: per-scan super-resolution that learns from the in-plane slices.

Re-implementation from C. Zhao et al., SMORE: A Self-Supervised Anti-Aliasing and Super-Resolution Algorithm for MRI
Using Deep Learning, IEEE TMI 40(3), 2021, in the form of its authors' later work, S. Remedios et al., Self-supervised
super-resolution for anisotropic MR images with and without slice gap, SASHIMI 2023. In-plane patches are blurred with
the slice profile and sampled at the slice spacing along either in-plane axis. One wide residual network with a pixel
shuffle along the thick axis learns the inverse, anti-aliasing and super-resolution together (instead of the two EDSR
networks of 2021). The results of both through-plane orientations are averaged.

Differences from the papers (:mod:`studies.peers.in_plane` trains the network): the global skip is cubic interpolation
on the grid of the result. The profile is that of the table, not estimated from the scan. There is no weight
normalisation and no pre-training on other scans. There are no rotations besides the two orientations, whose average
replaces the Fourier burst accumulation of 2021.
"""

from __future__ import annotations

import torch
from scripts.networks.interpolation import interpolate_cubic
from scripts.networks.rdn import shuffle_last_axis
from torch import nn

from .scan import started_small, whole_factor

__all__ = ["WideResidualNetwork"]


class WideResidualNetwork(nn.Module):
    """WDSR (Yu et al. 2018, type A) on the LR grid with a 1 x K pixel shuffle.

    Args:
        scale_factor: K, a whole number.
        blocks: number of residual blocks.
        features: channels between the blocks.
        expansion: channels before the ReLU of a block, as a multiple of ``features``.
    """

    def __init__(self, scale_factor: float, blocks: int, features: int, expansion: int) -> None:
        super().__init__()
        self.scale_factor = whole_factor("smore", scale_factor)
        self.head = nn.Conv2d(1, features, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, features * expansion, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(features * expansion, features, 3, padding=1),
            )
            for _ in range(blocks)
        )
        # random biases would cause a pattern of period K at the start
        self.tail = started_small(nn.Conv2d(features, self.scale_factor, 3, padding=1))

    def forward(self, image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, n)`` to ``(B, 1, H, K n)``; the condition is not used."""
        x = self.head(image)
        for block in self.blocks:
            x = x + block(x)
        return interpolate_cubic(image, positions) + shuffle_last_axis(self.tail(x), self.scale_factor)
