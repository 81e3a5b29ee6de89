# SPDX-License-Identifier: Apache-2.0
"""The training loop of all peers, which ends when its budget is spent, and the source of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.training.budget import processor_seconds, rate_factor
from scripts.transforms.degrade import RandDegrade
from scripts.transforms.patch import RandPlanePatch
from torch import nn
from tqdm import tqdm

__all__ = ["Draw", "random_pairs", "train_within"]

Draw = Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]


def train_within(
    network: nn.Module,
    loss: Callable[[], torch.Tensor],
    learning_rate: float,
    budget_s: float,
    desc: str,
    autocast: str | None = None,
) -> int:
    """Minimise a loss until the budget is spent, with at least one step. Leaves the network in evaluation mode.

    Args:
        network: network, on the device of the training.
        loss: draws a batch and returns its loss; called once per step, under autocast.
        learning_rate: highest learning rate of Adam.
        budget_s: processor seconds (:func:`scripts.training.budget.processor_seconds`).
        desc: label of the progress bar.
        autocast: dtype name for mixed precision, or ``None``.

    Returns:
        The number of steps.

    Raises:
        ValueError: if the budget is not positive.
    """
    if not budget_s > 0:
        raise ValueError(f"budget must be > 0 processor seconds, got {budget_s}; raise BUDGET")
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    started, spent, steps = processor_seconds(device), 0.0, 0
    network.train()
    shape = "{l_bar}{bar}| {n:.1f}/{total:.1f} processor seconds{postfix}"
    with tqdm(total=budget_s, desc=desc, bar_format=shape) as bar:
        while spent < budget_s:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate_factor(spent / budget_s)
            with torch.autocast(device.type, getattr(torch, autocast or "bfloat16"), enabled=autocast is not None):
                value = loss()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            now = processor_seconds(device) - started
            bar.update(min(now, budget_s) - min(spent, budget_s))
            spent = now
    network.eval()
    return steps


def thin_slices(slices: int, margin_slices: int, scale_factor: float) -> tuple[int, int]:
    """Number of thin slices in the target of a training patch, and beyond each end of it for the margin.

    Args:
        slices: thick slices of the patch.
        margin_slices: thick slices beyond both ends of a patch that are made and are not part of the target.
        scale_factor: K.
    """
    return math.floor(slices * scale_factor), math.ceil(margin_slices * scale_factor)


def random_pairs(
    volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
    operator: SliceProfileOperator,
    patch: RandPlanePatch,
    batch_size: int,
    margin: int,
    seed: int,
    device: torch.device,
    scale_factors: Sequence[float] | None = None,
) -> Draw:
    """Make a source of ``(thick, thin)`` batches: randomly flipped patches of random volumes, made thick by D.

    Args:
        volumes: ``(1, I, J, K)`` volumes in unit range and their spacing in mm, with the thick axis (if any) last.
        operator: D.
        patch: draws a ``(1, rows, columns + 2 * margin)`` patch; the last axis is made thick.
        batch_size: patches per batch.
        margin: columns that are cut off at both ends, because the profile would be truncated there.
        seed: seed of everything that is random here.
        device: device of the batches.
        scale_factors: range from which the K of each batch is drawn; ``None`` takes the K of the operator.

    Returns:
        A function; each call draws ``(B, 1, rows, n)``, ``(B, 1, rows, columns)``, and their positions and conditions.
    """
    random = np.random.RandomState(seed)
    patch.set_random_state(seed)
    thickness = operator.thickness_to_spacing
    degrade = RandDegrade({operator.profile: 1.0}, (thickness, thickness), margin)

    def one(scale_factor: float) -> tuple[torch.Tensor, ...]:
        volume, spacing_mm = volumes[random.randint(len(volumes))]
        thin, (rows_mm, columns_mm) = patch(volume, spacing_mm)
        thin = thin.flip([axis for axis in (1, 2) if random.rand() < 0.5])
        return degrade(thin, scale_factor, float(rows_mm / columns_mm))

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        scale_factor = (
            operator.grid.scale_factor if scale_factors is None else random.uniform(scale_factors[0], scale_factors[1])
        )
        parts = zip(*(one(scale_factor) for _ in range(batch_size)), strict=True)
        thick, thin, positions, condition = (torch.stack(part).to(device) for part in parts)
        return thick, thin, positions[0], condition

    return draw
