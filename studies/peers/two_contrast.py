# SPDX-License-Identifier: Apache-2.0
"""Common base of the multi-contrast rows: a second, thin contrast of the same patient guides the first. Per scan.

The papers learn from many patients with thin slices of both contrasts. Here one thin reference suffices
(``--reference``): the slices of the scan have high in-plane resolution, and the reference, made thick by the operator
of the scan, shows the same slabs. Pairs are made along an in-plane axis, as for SMORE and ZSSR, together with the
reference.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scripts.networks.interpolation import interpolate_cubic
from scripts.transforms.degrade import RandDegrade
from scripts.transforms.patch import RandPlanePatch
from torch import nn
from torch.nn import functional as F

from .scan import Scan
from .training import thin_slices, train_within

__all__ = ["StageIntegration", "TwoContrastLearner"]


class StageIntegration(nn.Module):
    """Match the features of every stage with those of all others, and add similar features (MINet, section 2.3).

    ``F_i <- F_i + gamma * sum_j softmax_j(<F_i, F_j>) F_j``; the products are means over the pixels and channels, so
    the size of an image does not matter. ``gamma`` is learned and starts at 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, stages: torch.Tensor) -> torch.Tensor:
        """``(B, S, C, H, W)`` to the same shape."""
        flat = stages.flatten(2)
        alike = torch.softmax(flat @ flat.transpose(1, 2) / flat.shape[2], dim=2)
        return stages + self.gamma * (alike @ flat).view_as(stages)


class TwoContrastLearner:
    """Train a copy of a network on one scan and its reference, then super-resolve that scan with it.

    Args:
        network: untrained network, which maps ``(B, 1, H, N)`` interpolated slices and ``(B, 1, H, N)`` of the
            reference to the residual of the first.
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

    def train(self, scan: Scan, budget_s: float, seed: int, device: torch.device, autocast: str | None) -> nn.Module:
        """Learn from the scan and its reference until the budget is spent; return the network.

        Raises:
            ValueError: if the scan has no reference.
        """
        network = copy.deepcopy(self.network).to(device)
        random = np.random.RandomState(seed)
        factor, thickness = scan.scale_factor, scan.operator.thickness_to_spacing
        columns, margin = thin_slices(self.size[1], self.margin_slices, factor)
        finest = max(scan.thin_mm, *scan.spacing_mm[:2])
        patch = RandPlanePatch(
            "in_plane", (self.size[0], columns + 2 * margin), column_spacing_mm=(scan.thin_mm, finest), attempts=1
        )
        degrade = RandDegrade({scan.operator.profile: 1.0}, (thickness, thickness), margin)
        contrasts = [scan.image[None], scan.operator.degrade(_reference(scan))[None]]

        def one() -> tuple[torch.Tensor, ...]:
            for _ in range(8):  # to avoid patches of air
                place, turn = random.randint(2**31), [axis for axis in (1, 2) if random.rand() < 0.5]
                both = []
                for volume in contrasts:  # the same place in both contrasts
                    patch.set_random_state(place)
                    both.append(patch(volume, scan.spacing_mm)[0].flip(turn))
                if float(both[0].std()) >= 0.05:
                    break
            thick, thin, positions, _ = degrade(both[0], factor, 1.0)
            return interpolate_cubic(thick, positions), thin, both[1].narrow(-1, margin, columns)

        def loss() -> torch.Tensor:
            parts = zip(*(one() for _ in range(self.batch_size)), strict=True)
            cubic, thin, reference = (torch.stack(part).to(device) for part in parts)
            return F.l1_loss(cubic + network(cubic, reference), thin)

        train_within(network, loss, self.learning_rate, budget_s, type(network).__name__, autocast)
        return network

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, n_thin)``, averaged over both orientations."""
        device = next(network.parameters()).device
        cubic, reference = interpolate_cubic(scan.image, scan.positions), _reference(scan)
        result = cubic.clone()
        with torch.no_grad():
            for side in (0, 1):
                pair = [volume.transpose(0, side).unsqueeze(1) for volume in (cubic, reference)]
                found = result.transpose(0, side)
                for index, parts in enumerate(zip(*(volume.split(4) for volume in pair), strict=True)):
                    lacking = network.eval()(*(part.to(device) for part in parts))[:, 0].float().cpu()
                    found[4 * index : 4 * index + len(lacking)] += lacking / 2
        return result


def _reference(scan: Scan) -> torch.Tensor:
    if scan.reference is None:
        raise ValueError("a multi-contrast method needs a second contrast of the patient, got none; give --reference")
    return scan.reference
