# SPDX-License-Identifier: Apache-2.0
"""TSCN: slice interpolation that learns in two self-supervised stages from thick-slice scans.

Re-implementation from Z. Lu et al., Two-Stage Self-supervised Cycle-Consistency Network for Reconstruction of
Thin-Slice MR Images, MICCAI 2021. A network f takes two neighbouring slices and returns the thin slices between them.

* Stage 1 synthesises pairs along the sagittal and coronal directions of the scan itself. Its volume, made thick along
  one in-plane axis, gives neighbouring slices, and the original volume gives the slices between them.
* Stage 2 uses cycle consistency on triplets of acquired slices I0, I1, I2. f interpolates between I0 and I1 and between
  I1 and I2. From the result, slices half-way between the acquired slices are made. f then interpolates between these
  and must reproduce I1.

Differences from the paper: slices are slabs here, not points. Therefore D makes the half-way slices and the slice that
is compared with I1, where the paper takes single interpolated slices. f consists of the bundle's residual dense blocks
on a linear interpolation. Stage 1 continues during stage 2, because the cycle alone drifts towards a smooth solution.
There is no adversarial or perceptual term. The half slices at both ends of a scan, which do not lie between two
acquired slices, are interpolated.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.networks.rdn import ResidualDenseBlock
from torch import nn
from torch.nn import functional as F

from .interpolation import bicubic
from .scan import Scan, operator_on, started_small, whole_factor
from .training import train_within

__all__ = ["TSCN", "SliceInterpolator"]


class SliceInterpolator(nn.Module):
    """f, which makes the K thin slices from one acquired slice to the next, including a thin slice at the first.

    Args:
        scale_factor: K, a whole number.
        blocks: number of residual dense blocks.
        layers: convolutions per block.
        growth: channels that each convolution adds.
        features: channels between the blocks.
    """

    fractions: torch.Tensor

    def __init__(self, scale_factor: float, blocks: int, layers: int, growth: int, features: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor = whole_factor("tscn", scale_factor)
        centre = (scale_factor - 1) / 2  # HR coordinate of thick slice 0
        self.first = math.ceil(centre)  # HR coordinate of the first thin slice that f returns for slices 0 and 1
        positions = (self.first - centre + torch.arange(scale_factor)) / scale_factor
        self.register_buffer("fractions", positions.float()[:, None, None], persistent=False)
        self.head = nn.Conv2d(2, features, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualDenseBlock(features, growth, layers) for _ in range(blocks)])
        self.tail = started_small(nn.Conv2d(features, scale_factor, 3, padding=1))

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """``(B, 2, H, W)`` to ``(B, K, H, W)``."""
        linear = pair[:, :1] * (1 - self.fractions) + pair[:, 1:] * self.fractions
        return linear + self.tail(self.blocks(self.head(pair)))


class TSCN:
    """Train on thick-slice scans, then interpolate between the slices of any scan.

    Args:
        network: untrained :class:`SliceInterpolator`.
        size: height and width of a training patch, pixels.
        batch_size: patches of each kind per step.
        stage1_fraction: share of the budget for stage 1 alone.
        cycle_weight: weight of the cycle loss in stage 2; the loss of stage 1 has weight 1.
        margin_slices: neighbours on both sides of a synthesised pair, so that the profile is not truncated.
        learning_rate: highest learning rate of Adam in stage 1; stage 2 has half of it.
    """

    def __init__(
        self,
        network: SliceInterpolator,
        size: int,
        batch_size: int,
        stage1_fraction: float,
        cycle_weight: float,
        margin_slices: int,
        learning_rate: float,
    ) -> None:
        if network.scale_factor % 2:
            raise ValueError(f"scale_factor must be even for tscn, got {network.scale_factor}; leave the row out")
        self.network = network
        self.size = size
        self.batch_size = batch_size
        self.stage1_fraction = stage1_fraction
        self.cycle_weight = cycle_weight
        self.margin_slices = margin_slices
        self.learning_rate = learning_rate

    def train(
        self, scans: Sequence[Scan], budget_s: float, seed: int, device: torch.device, autocast: str | None
    ) -> nn.Module:
        """Train both stages; return the network."""
        network = copy.deepcopy(self.network).to(device).to(memory_format=torch.channels_last)
        random = np.random.RandomState(seed)

        def batch(draw: Callable[[Scan, np.random.RandomState], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
            items = [draw(scans[random.randint(len(scans))], random) for _ in range(self.batch_size)]
            return tuple(torch.stack(parts).to(device) for parts in zip(*items, strict=True))

        def stage1() -> torch.Tensor:
            pair, between = batch(self.synthetic_pair)
            return F.l1_loss(network(pair), between)

        def stage2() -> torch.Tensor:
            (triplet,) = batch(self.triplet)
            returned = self.cycle(network, triplet, scans[0].operator)
            return stage1() + self.cycle_weight * F.l1_loss(returned, triplet[:, 1:2])

        first_s = budget_s * self.stage1_fraction
        train_within(network, stage1, self.learning_rate, first_s, "tscn, stage 1", autocast)
        train_within(network, stage2, self.learning_rate / 2, budget_s - first_s, "tscn, stage 2", autocast)
        return network

    def synthetic_pair(self, scan: Scan, random: np.random.RandomState) -> tuple[torch.Tensor, torch.Tensor]:
        """Two neighbouring slices ``(2, h, w)`` made thick along an in-plane axis, and ``(K, h, w)`` between them."""
        axis, factor = random.randint(2), self.network.scale_factor
        volume = scan.image.movedim(axis, -1)  # (other in-plane axis, thick axis, the axis to make thick)
        length = factor * (2 + 2 * self.margin_slices)
        zoom = max(1.0, scan.thin_mm / scan.spacing_mm[axis])  # voxels per thin slice
        block = self._crop(volume, (self.size, self.size, min(volume.shape[2], round(length * zoom))), random)
        if block.shape[2] != length:
            block = F.interpolate(block, size=length, mode="linear", align_corners=False)
        if random.rand() < 0.5:
            block = block.flip(-1)
        thick = operator_on(scan.operator, length).degrade(block)
        low = self.margin_slices
        start = low * factor + self.network.first
        return thick[..., low : low + 2].movedim(-1, 0), block[..., start : start + factor].movedim(-1, 0)

    def triplet(self, scan: Scan, random: np.random.RandomState) -> tuple[torch.Tensor]:
        """Three neighbouring acquired slices, ``(3, h, w)``."""
        block = self._crop(scan.image, (self.size, self.size, 3), random)
        return (block.movedim(-1, 0).contiguous(),)

    def _crop(self, volume: torch.Tensor, size: Sequence[int], random: np.random.RandomState) -> torch.Tensor:
        """A random block, repeated at its end if the volume is smaller. Blocks of air are rare."""
        for _ in range(8):
            block = volume
            for axis in range(3):
                length = min(size[axis], volume.shape[axis])
                block = block.narrow(axis, random.randint(volume.shape[axis] - length + 1), length)
            if float(block.std()) >= 0.05:
                break
        missing = [size[axis] - block.shape[axis] for axis in range(2)]
        if any(missing):
            pad = (0, missing[1], 0, missing[0])
            block = F.pad(block.movedim(-1, 0)[None], pad, mode="replicate")[0].movedim(0, -1)
        return block

    @staticmethod
    def cycle(network: nn.Module, triplet: torch.Tensor, operator: SliceProfileOperator) -> torch.Tensor:
        """``(B, 3, H, W)`` acquired slices to the middle slice as the cycle returns it, ``(B, 1, H, W)``.

        The K thin slices between two acquired slices are centred half-way. D of each block of K thin slices therefore
        gives the half-way slices. The K thin slices between these are centred at the middle slice.
        """
        between = torch.cat([network(triplet[:, :2]), network(triplet[:, 1:])], dim=1)  # (B, 2 K, H, W)
        half_way = (
            operator_on(operator, between.shape[1]).degrade(between.movedim(1, -1)).movedim(-1, 1)
        )  # (B, 2, H, W)
        returned = network(half_way)
        return operator_on(operator, returned.shape[1]).degrade(returned.movedim(1, -1)).movedim(-1, 1)

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, K * n_slices)``."""
        device = next(network.parameters()).device
        result = bicubic(scan)
        slices = scan.image.movedim(-1, 0).to(device)
        with torch.no_grad():
            for k in range(len(slices) - 1):
                start = k * self.network.scale_factor + self.network.first
                between = network(slices[k : k + 2][None])[0].cpu()
                result[..., start : start + self.network.scale_factor] = between.movedim(0, -1)
        return result
