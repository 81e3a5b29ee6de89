# SPDX-License-Identifier: Apache-2.0
"""Methods that learn from the scan itself: its slices are high-resolution, made thick along an in-plane axis."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from scripts.transforms.patch import RandPlanePatch
from torch import nn
from torch.nn import functional as F

from .scan import Scan, both_orientations
from .training import random_pairs, train_within

__all__ = ["InPlaneLearner"]


class InPlaneLearner:
    """Train a copy of a network on one scan, then super-resolve that scan with it.

    Args:
        network: untrained; maps ``(B, 1, H, W)`` to ``(B, 1, H, K * W)``.
        size: ``(rows, slices)`` of a training patch.
        batch_size: patches per step.
        largest_scale: patches are drawn at 1 to this many times the spacing of the thin slices.
        margin_slices: see :func:`benchmarks.peers.training.random_pairs`.
        learning_rate: of Adam, at its highest.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        batch_size: int,
        largest_scale: float,
        margin_slices: int,
        learning_rate: float,
    ) -> None:
        self.network = network
        self.size = tuple(size)
        self.batch_size = batch_size
        self.largest_scale = largest_scale
        self.margin_slices = margin_slices
        self.learning_rate = learning_rate

    def train(self, scan: Scan, budget_s: float, seed: int, device: torch.device, autocast: str | None) -> nn.Module:
        """Learn from the scan (L1 loss) until the budget is spent; returns the network."""
        network = copy.deepcopy(self.network).to(device, memory_format=torch.channels_last)
        # the spacing of the thin slices, or the scan's own where that is coarser
        finest = max(scan.thin_mm, *scan.spacing_mm[:2])
        patch = RandPlanePatch(
            "in_plane",
            (self.size[0], scan.scale_factor * (self.size[1] + 2 * self.margin_slices)),
            column_spacing_mm=(scan.thin_mm, finest * self.largest_scale),
        )
        volumes = [(scan.image[None], scan.spacing_mm)]
        draw = random_pairs(volumes, scan.operator, patch, self.batch_size, self.margin_slices, seed, device)

        def loss() -> torch.Tensor:
            thick, thin = draw()
            return F.l1_loss(network(thick), thin)

        train_within(network, loss, self.learning_rate, budget_s, type(self.network).__name__, autocast)
        return network

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, K * n_slices)``."""
        return both_orientations(network, scan)
