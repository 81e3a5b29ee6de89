# SPDX-License-Identifier: Apache-2.0
"""SANet: the second contrast separates high from low intensities. Here per scan, 2D, needs ``--reference``.

Re-implementation from C.-M. Feng et al., Exploring Separable Attention for Multi-Contrast MR Image Super-Resolution,
arXiv:2109.01664: in each stage the reference's features predict a map A in (0, 1); the target's features are explored
"forward" (high-intensity priority, ``A * F``) and "in reverse" (low-intensity separation, ``(1 - A) * F``), each
refined by convolutions of its own and joined again; the representations of all stages are integrated by their
similarities, as in MINet.

The differences from the paper are those of MINet (:mod:`studies.peers.minet`).
"""

from __future__ import annotations

import torch
from torch import nn

from .minet import residual_stage
from .scan import started_small
from .two_contrast import StageIntegration

__all__ = ["SANet"]


class _SeparableAttention(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.guide = residual_stage(features)
        self.attend = nn.Conv2d(features, features, 3, padding=1)
        self.high, self.low = residual_stage(features), residual_stage(features)
        self.join = nn.Conv2d(3 * features, features, 1)

    def forward(self, x: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r = r + self.guide(r)
        share = torch.sigmoid(self.attend(r))
        return x + self.join(torch.cat([self.high(share * x), self.low((1 - share) * x), r], dim=1)), r


class SANet(nn.Module):
    """Stages of separable attention that are integrated.

    Args:
        stages: number of stages.
        features: channels of the features.
    """

    def __init__(self, stages: int, features: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(1, features, 3, padding=1) for _ in range(2))
        self.stages = nn.ModuleList(_SeparableAttention(features) for _ in range(stages))
        self.integrate = StageIntegration()
        self.tail = started_small(nn.Conv2d(stages * features, 1, 3, padding=1))

    def forward(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, N)`` interpolated and ``(B, 1, H, N)`` of the reference to the residual of the first."""
        x, r = self.heads[0](image), self.heads[1](reference)
        found = []
        for stage in self.stages:
            x, r = stage(x, r)
            found.append(x)
        return self.tail(self.integrate(torch.stack(found, dim=1)).flatten(1, 2))
