# SPDX-License-Identifier: Apache-2.0
"""Methods that learn from the scan itself, whose slices have high resolution and are made thick in-plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .learner import PairLearner
from .scan import Scan

__all__ = ["InPlaneLearner"]


class InPlaneLearner(PairLearner):
    """Train a copy of a network on one scan, then super-resolve that scan with it.

    Args:
        network: see :class:`PairLearner`.
        largest_scale: largest pixel spacing of the patches, as a multiple of the spacing of the thin slices. The
            smallest multiple is 1.
        learner: further arguments of :class:`PairLearner`.
    """

    def __init__(self, network: nn.Module, largest_scale: float, **learner: Any) -> None:
        super().__init__(network, **learner)
        self.largest_scale = largest_scale

    def train(self, scan: Scan, budget_s: float, seed: int, device: torch.device, autocast: str | None) -> nn.Module:
        """Learn from the scan until the budget is spent; returns the network."""
        # the spacing of the thin slices, or that of the scan's pixels if it is larger
        finest = max(scan.thin_mm, *scan.spacing_mm[:2])
        spacing_mm = (scan.thin_mm, finest * self.largest_scale)
        volumes = [(scan.image[None], scan.spacing_mm)]
        how = (budget_s, seed, device, autocast)
        return self.learn(volumes, scan.operator, *how, planes="in_plane", column_spacing_mm=spacing_mm)
