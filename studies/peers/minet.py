# SPDX-License-Identifier: Apache-2.0
"""MINet: two contrasts whose features are matched over all stages. Here per scan, 2D, needs ``--reference``.

Re-implementation from C.-M. Feng et al., Multi-Contrast MRI Super-Resolution via a Multi-Stage Integration Network,
MICCAI 2021: each contrast has a branch of residual stages; every stage of the target's branch also sees the reference's
features of that stage; the representations of all stages of both branches are integrated by their similarities
(:class:`studies.peers.two_contrast.StageIntegration`), weighted by channel-spatial attention, and reconstructed.

Differences from the paper: the network is trained per scan (:mod:`studies.peers.two_contrast` says how and why). The
target's branch works on slices that are interpolated to the thin grid instead of on a pixel shuffle, so that any K is
possible. The loss of the reference's own branch is left out. The stages are small.
"""

from __future__ import annotations

import torch
from torch import nn

from .scan import started_small
from .two_contrast import StageIntegration

__all__ = ["MINet", "residual_stage"]


def residual_stage(features: int) -> nn.Sequential:
    """Two convolutions with a ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)
    )


class MINet(nn.Module):
    """Two branches whose stages are integrated.

    Args:
        stages: number of stages per branch.
        features: channels of the features.
    """

    def __init__(self, stages: int, features: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(1, features, 3, padding=1) for _ in range(2))
        self.target = nn.ModuleList(residual_stage(features) for _ in range(stages))
        self.reference = nn.ModuleList(residual_stage(features) for _ in range(stages))
        self.join = nn.ModuleList(nn.Conv2d(2 * features, features, 1) for _ in range(stages))
        self.integrate = StageIntegration()
        # a weight for each channel at each pixel, from the values around it
        self.attention = nn.Conv3d(1, 1, 3, padding=1)
        self.tail = started_small(nn.Conv2d(2 * stages * features, 1, 3, padding=1))

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, N)`` interpolated and ``(B, 1, H, N)`` of the reference to the residual of the first."""
        x, r = self.heads[0](image), self.heads[1](reference)
        found = []
        for target, guide, join in zip(self.target, self.reference, self.join, strict=True):
            r = r + guide(r)
            x = x + join(torch.cat([x, r], dim=1))
            x = x + target(x)
            found += [x, r]
        features = self.integrate(torch.stack(found, dim=1)).flatten(1, 2)
        weight = torch.sigmoid(self.attention(features[:, None])[:, 0])
        return self.tail(features + features * weight)
