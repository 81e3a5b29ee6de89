# SPDX-License-Identifier: Apache-2.0
"""Common base of all 3D networks: they learn from blocks of thin volumes, and run over a scan in blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.transforms.degrade import RandDegrade
from torch import nn
from torch.nn import functional as F

from .scan import Scan
from .training import Draw, thin_slices, train_within

__all__ = ["VolumeLearner", "in_blocks", "random_blocks"]


class VolumeLearner:
    """Train a 3D network on pairs of blocks of (near-)isotropic volumes: supervised.

    Args:
        network: untrained network, which maps ``(B, 1, H, W, n)`` thick slices, positions and condition to
            ``(B, 1, H, W, N)``. Copies of it are trained.
        size: ``(rows, columns, slices)`` of a training block, counted in thick slices.
        batch_size: blocks per step.
        margin_slices: thick slices beyond both ends of a block that are made and are not part of the target.
        learning_rate: highest learning rate of Adam.
        side: in-plane side of the blocks into which a scan is divided; memory limits it.
        halo: pixels of context around each block.
        scale_factors: range from which the K of each batch is drawn; ``None`` takes the K of the table.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        batch_size: int,
        margin_slices: int,
        learning_rate: float,
        side: int,
        halo: int,
        scale_factors: Sequence[float] | None = None,
    ) -> None:
        self.network = network
        self.size = tuple(size)
        self.batch_size = batch_size
        self.margin_slices = margin_slices
        self.learning_rate = learning_rate
        self.side = side
        self.halo = halo
        self.scale_factors = scale_factors

    def source(
        self,
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        operator: SliceProfileOperator,
        seed: int,
        device: torch.device,
    ) -> Draw:
        """Make a source of batches; see :func:`random_blocks`."""
        scale_factor = operator.grid.scale_factor
        depth, margin = thin_slices(self.size[2], self.margin_slices, scale_factor)
        size = (self.size[0], self.size[1], depth)
        return random_blocks(volumes, operator, size, self.batch_size, margin, seed, device, self.scale_factors)

    def train(
        self,
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        operator: SliceProfileOperator,
        budget_s: float,
        seed: int,
        device: torch.device,
        autocast: str | None,
    ) -> nn.Module:
        """Learn from ``(1, I, J, K)`` HR volumes in unit range and their spacing in mm; return the network."""
        network = copy.deepcopy(self.network).to(device)
        draw = self.source(volumes, operator, seed, device)

        def loss() -> torch.Tensor:
            thick, thin, positions, condition = draw()
            return F.l1_loss(network(thick, positions, condition), thin)

        train_within(network, loss, self.learning_rate, budget_s, type(network).__name__, autocast)
        return network

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, n_thin)``."""
        return in_blocks(network, scan, self.side, self.halo)


def random_blocks(
    volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
    operator: SliceProfileOperator,
    size: tuple[int, int, int],
    batch_size: int,
    margin: int,
    seed: int,
    device: torch.device,
    scale_factors: Sequence[float] | None = None,
) -> Draw:
    """Make a source of batches: randomly turned and flipped blocks of random volumes, made thick along the last axis.

    Blocks keep the volume's own spacing. A volume smaller than a block is mirrored.

    Args:
        volumes: ``(1, I, J, K)`` volumes in unit range and their spacing in mm.
        operator: D.
        size: ``(rows, columns, thin slices)`` of the target.
        batch_size: blocks per batch.
        margin: thin slices on each side that are used to make thick slices and are not part of the target.
        seed: seed of everything that is random here.
        device: device of the batches.
        scale_factors: range from which the K of each batch is drawn; ``None`` takes the K of the operator.

    Returns:
        A function; each call draws ``(B, 1, rows, columns, n)``, ``(B, 1, rows, columns, thin slices)``, positions and
        conditions.
    """
    random = np.random.RandomState(seed)
    thickness = operator.thickness_to_spacing
    degrade = RandDegrade({operator.profile: 1.0}, (thickness, thickness), margin)
    wanted = (*size[:2], size[2] + 2 * margin)

    def block() -> tuple[torch.Tensor, float]:
        volume, spacing_mm = volumes[random.randint(len(volumes))]
        axes = [int(axis) for axis in random.permutation(3)]
        turned = volume[0].permute(axes)
        for _ in range(8):  # to avoid blocks of air
            part = turned
            for axis in range(3):
                length = min(wanted[axis], part.shape[axis])
                part = part.narrow(axis, random.randint(part.shape[axis] - length + 1), length)
            if float(part.std()) >= 0.05:
                break
        missing = [want - have for want, have in zip(wanted, part.shape, strict=True)]
        if any(missing):
            part = torch.from_numpy(np.pad(part.numpy(), [(0, n) for n in missing], mode="symmetric"))
        part = part.flip([axis for axis in range(3) if random.rand() < 0.5])
        return part, float(spacing_mm[axes[0]] / spacing_mm[axes[2]])

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        scale_factor = (
            operator.grid.scale_factor if scale_factors is None else random.uniform(scale_factors[0], scale_factors[1])
        )
        pairs = [degrade(part[None], scale_factor, ratio) for part, ratio in (block() for _ in range(batch_size))]
        thick, thin, positions, condition = (torch.stack(x).to(device) for x in zip(*pairs, strict=True))
        return thick, thin, positions[0], condition

    return draw


def in_blocks(network: nn.Module, scan: Scan, side: int, halo: int) -> torch.Tensor:
    """Run a 3D network over a scan in blocks, each of which contains the whole thick axis.

    Args:
        network: see :class:`VolumeLearner`.
        scan: the scan.
        side: in-plane side of a block in pixels.
        halo: pixels around a block that are computed and discarded.

    Returns:
        ``(H1, H2, n_thin)`` on the CPU.
    """
    device = next(network.parameters()).device
    positions, condition = scan.operator.told(scan.spacing_mm[0] / scan.spacing_mm[2], device)
    result = torch.empty((*scan.image.shape[:2], len(positions)))
    with torch.no_grad():
        for i in range(0, scan.image.shape[0], side):
            for j in range(0, scan.image.shape[1], side):
                top, left = max(0, i - halo), max(0, j - halo)
                part = scan.image[top : i + side + halo, left : j + side + halo]
                thin = network.eval()(part[None, None].to(device), positions, condition)[0, 0].float().cpu()
                place = result[i : i + side, j : j + side]
                place.copy_(thin[i - top :, j - left :][: place.shape[0], : place.shape[1]])
    return result
