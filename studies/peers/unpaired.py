# SPDX-License-Identifier: Apache-2.0
"""Common base of the unpaired rows: thick scans of some patients and thin volumes of others, without pairs.

The inputs of a method, on the thin grid, are ``x`` (patches of thick scans, interpolated), ``y`` (patches of thin
volumes) and ``low(y)``, which is ``y`` made thick by the operator and interpolated. The papers also learn this
degradation; here all rows are given the operator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.networks.interpolation import interpolate_cubic
from scripts.transforms.patch import RandPlanePatch
from torch import nn

from .adversarial import Critic, patch_critic
from .scan import Scan, both_orientations
from .training import random_pairs, thin_slices, train_within

__all__ = ["Unpaired", "UnpairedLearner"]


class Unpaired(NamedTuple):
    """A batch.

    Attributes:
        thick: ``(B, 1, rows, n)`` patches of thick scans.
        x: the same patches, interpolated, ``(B, 1, rows, N)``.
        y: thin patches of other patients, same shape.
        low_y: ``y`` made thick and interpolated.
        operator: D of this batch, from ``N`` to ``n``.
    """

    thick: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    low_y: torch.Tensor
    operator: SliceProfileOperator

    def make_thick(self, thin: torch.Tensor) -> torch.Tensor:
        """D of ``(B, 1, rows, N)``."""
        return self.operator.degrade(thin)

    def low(self, thin: torch.Tensor) -> torch.Tensor:
        """D of ``(B, 1, rows, N)``, interpolated again."""
        return interpolate_cubic(self.make_thick(thin), self.operator.grid.positions_tensor(thin.device))


class UnpairedLearner:
    """Train a network against a critic, and run it over a scan. Each method defines its own loss of a batch.

    Args:
        network: untrained network, which maps images, positions and condition as :class:`scripts.networks.srnet.SRNet`
            does.
        size: ``(rows, slices)`` of a training patch.
        batch_size: patches of each kind per step.
        margin_slices: thick slices beyond both ends that are made from ``y`` and are not part of the target.
        row_spacing_mm: range of the in-plane pixel spacing of the thin patches, as in the bundle.
        thin_spacing_mm: range of the spacing of their slices, as in the bundle.
        learning_rate: highest learning rate of Adam.
        adversarial_weight: weight of the adversarial loss.
        critic_width: channels of the critic's first layer.
        critic_layers: number of the critic's strided convolutions.
        scale_factors: range from which the K of each batch is drawn; ``None`` takes the K of the table.
    """

    name: str

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        batch_size: int,
        margin_slices: int,
        row_spacing_mm: Sequence[float],
        thin_spacing_mm: Sequence[float],
        learning_rate: float,
        adversarial_weight: float,
        critic_width: int,
        critic_layers: int,
        scale_factors: Sequence[float] | None = None,
    ) -> None:
        self.network = network
        self.size = tuple(size)
        self.batch_size = batch_size
        self.margin_slices = margin_slices
        self.row_spacing_mm = row_spacing_mm
        self.thin_spacing_mm = thin_spacing_mm
        self.learning_rate = learning_rate
        self.adversarial_weight = adversarial_weight
        self.critic = patch_critic(critic_width, critic_layers, dimensions=2)
        self.scale_factors = scale_factors

    def loss(self, network: Any, critic: Critic, batch: Unpaired) -> torch.Tensor:
        """Loss of the network on one batch. The critic is trained here, too."""
        raise NotImplementedError

    def train(
        self,
        scans: Sequence[Scan],
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        budget_s: float,
        seed: int,
        device: torch.device,
        autocast: str | None,
    ) -> nn.Module:
        """Learn from thick scans and from ``(1, I, J, K)`` HR volumes of other patients; return the network."""
        network = copy.deepcopy(self.network).to(device).to(memory_format=torch.channels_last)
        critic = Critic(copy.deepcopy(self.critic).to(device), self.learning_rate)
        draw = self.source(scans, volumes, seed, device)
        train_within(
            network, lambda: self.loss(network, critic, draw()), self.learning_rate, budget_s, self.name, autocast
        )
        return network

    def source(
        self,
        scans: Sequence[Scan],
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        seed: int,
        device: torch.device,
    ) -> Callable[[], Unpaired]:
        """Make a function that draws batches."""
        random, operator = np.random.RandomState(seed), scans[0].operator
        factor = operator.grid.scale_factor
        columns, margin = thin_slices(self.size[1], self.margin_slices, factor)
        size = (self.size[0], columns + 2 * margin)
        thin_patch = RandPlanePatch("any", size, self.row_spacing_mm, self.thin_spacing_mm)
        draw_thin = random_pairs(
            volumes, operator, thin_patch, self.batch_size, margin, seed, device, self.scale_factors
        )
        thick_patch = RandPlanePatch("through_plane", (self.size[0], self.size[1]))
        thick_patch.set_random_state(seed)

        def thick(slices: int) -> torch.Tensor:
            scan = scans[random.randint(len(scans))]
            image, _ = thick_patch(scan.image[None], scan.spacing_mm, slices)
            return image.flip([axis for axis in (1, 2) if random.rand() < 0.5])

        def draw() -> Unpaired:
            of_y, y, positions, _ = draw_thin()
            grid = SliceGrid.of_positions(of_y.shape[-1], positions.tolist())
            batch = torch.stack([thick(of_y.shape[-1]) for _ in range(self.batch_size)]).to(device)
            at = SliceProfileOperator(grid, operator.profile, operator.thickness_to_spacing)
            return Unpaired(batch, interpolate_cubic(batch, positions), y, interpolate_cubic(of_y, positions), at)

        return draw

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, n_thin)``."""
        return both_orientations(network, scan)
