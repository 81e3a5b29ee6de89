# SPDX-License-Identifier: Apache-2.0
"""Common base of all networks for slices: learning from pairs of patches with the L1 loss, and both orientations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from scripts.degradation import SliceProfileOperator
from scripts.transforms.patch import RandPlanePatch
from torch import nn
from torch.nn import functional as F

from .scan import Scan, both_orientations
from .training import random_pairs, thin_slices, train_within

__all__ = ["PairLearner"]


class PairLearner:
    """A network and its training on pairs. Each method has its own source of pairs.

    Args:
        network: untrained network, which maps images, positions and condition as :class:`scripts.networks.srnet.SRNet`
            does. Copies of it are trained.
        size: ``(rows, slices)`` of a training patch.
        batch_size: patches per step.
        margin_slices: thick slices beyond both ends of a patch that are made and are not part of the target.
        learning_rate: highest learning rate of Adam.
    """

    def __init__(
        self, network: nn.Module, size: Sequence[int], batch_size: int, margin_slices: int, learning_rate: float
    ) -> None:
        self.network = network
        self.size = tuple(size)
        self.batch_size = batch_size
        self.margin_slices = margin_slices
        self.learning_rate = learning_rate

    def learn(
        self,
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        operator: SliceProfileOperator,
        budget_s: float,
        seed: int,
        device: torch.device,
        autocast: str | None,
        **patch: Any,
    ) -> nn.Module:
        """Train a copy until the budget is spent.

        Args:
            volumes: ``(1, I, J, K)`` in unit range and the spacing in mm.
            operator: D.
            budget_s: processor seconds.
            seed: seed of the patches.
            device: device of the training.
            autocast: see :func:`studies.peers.training.train_within`.
            patch: planes and spacings of :class:`scripts.transforms.patch.RandPlanePatch`.

        Returns:
            The trained copy.
        """
        network = copy.deepcopy(self.network).to(device).to(memory_format=torch.channels_last)
        scale_factor = operator.grid.scale_factor
        columns, margin = thin_slices(self.size[1], self.margin_slices, scale_factor)
        source = RandPlanePatch(size=(self.size[0], columns + 2 * margin), **patch)
        draw = random_pairs(volumes, operator, source, self.batch_size, margin, seed, device)

        def loss() -> torch.Tensor:
            thick, thin, positions, condition = draw()
            return F.l1_loss(network(thick, positions, condition)[:, :1], thin)

        train_within(network, loss, self.learning_rate, budget_s, type(self.network).__name__, autocast)
        return network

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, n_thin)``."""
        return both_orientations(network, scan)
