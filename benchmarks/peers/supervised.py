# SPDX-License-Identifier: Apache-2.0
"""Supervised rows: networks that are shown high-resolution MR, which our method does without.

``rdn_supervised`` is the residual dense network of Zhang et al., CVPR 2018, as the bundle defines it (the paper's own
supervised row); ``reconresnet`` is :mod:`benchmarks.peers.reconresnet`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from scripts.degradation import SliceProfileOperator
from scripts.transforms.patch import RandPlanePatch
from torch import nn
from torch.nn import functional as F

from .scan import Scan, both_orientations
from .training import random_pairs, train_within

__all__ = ["Supervised"]


class Supervised:
    """Train a network on pairs made of (near-)isotropic volumes.

    Args:
        network: untrained; maps ``(B, 1, H, W)`` to ``(B, 1, H, K * W)``.
        size: ``(rows, slices)`` of a training patch.
        batch_size: patches per step.
        row_spacing_mm: range of the pixel spacing, in-plane; the bundle's own.
        thin_spacing_mm: range of the spacing of the thin slices; the bundle's own.
        margin_slices: see :func:`benchmarks.peers.training.random_pairs`.
        learning_rate: of Adam, at its highest.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        batch_size: int,
        row_spacing_mm: Sequence[float],
        thin_spacing_mm: Sequence[float],
        margin_slices: int,
        learning_rate: float,
    ) -> None:
        self.network = network
        self.size = tuple(size)
        self.batch_size = batch_size
        self.row_spacing_mm = row_spacing_mm
        self.thin_spacing_mm = thin_spacing_mm
        self.margin_slices = margin_slices
        self.learning_rate = learning_rate

    def train(
        self,
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        operator: SliceProfileOperator,
        budget_s: float,
        seed: int,
        device: torch.device,
        autocast: str | None,
    ) -> nn.Module:
        """Learn from ``(1, I, J, K)`` HR volumes in unit range and their spacing in mm; returns the network."""
        network = copy.deepcopy(self.network).to(device, memory_format=torch.channels_last)
        patch = RandPlanePatch(
            "any",
            (self.size[0], operator.scale_factor * (self.size[1] + 2 * self.margin_slices)),
            row_spacing_mm=self.row_spacing_mm,
            column_spacing_mm=self.thin_spacing_mm,
        )
        draw = random_pairs(volumes, operator, patch, self.batch_size, self.margin_slices, seed, device)

        def loss() -> torch.Tensor:
            thick, thin = draw()
            return F.l1_loss(network(thick), thin)

        train_within(network, loss, self.learning_rate, budget_s, type(self.network).__name__, autocast)
        return network

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, K * n_slices)``."""
        return both_orientations(network, scan)
