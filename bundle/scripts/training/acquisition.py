# SPDX-License-Identifier: Apache-2.0
"""The acquisition of a training batch: the inputs that describe it to the network, and the operator D that fits it."""

from __future__ import annotations

from typing import Any

import torch

from ..degradation import SliceProfileOperator
from ..geometry import SliceGrid

__all__ = ["BatchOperator", "Told", "supervised_batch", "told"]

Batch = dict[str, torch.Tensor]
Told = tuple[torch.Tensor, ...]


def told(batch: Batch, *sources: str) -> Told:
    """Positions and condition for :class:`scripts.networks.srnet.SRNet`.

    Args:
        batch: collated patches, which share one K and therefore their positions.
        sources: sources whose patches go through the network together, in this order (``mr``, ``ct``). None are given
            for a batch with a single source, whose keys have no prefix.

    Returns:
        ``(N,)`` positions, ``(B, 4)`` conditions and, if the patches have a guide, the guides ``(B, 2, H, N)``
        (:class:`scripts.networks.guided.GuidedSRNet`).
    """
    prefixes = [f"{source}_" for source in sources] or [""]
    condition = torch.cat([batch[f"{prefix}condition"] for prefix in prefixes])
    acquisition = (batch[f"{prefixes[0]}positions"][0], condition)
    if f"{prefixes[0]}guide" not in batch:
        return acquisition
    return (*acquisition, torch.cat([batch[f"{prefix}guide"] for prefix in prefixes]))


def supervised_batch(batch: Batch, device: str | torch.device, non_blocking: bool = False, **_: Any) -> tuple:
    """MONAI's ``prepare_batch``: image, label, positions and condition, on the device."""
    batch = {key: value.to(device, non_blocking=non_blocking) for key, value in batch.items()}
    return batch["image"], batch["label"], told(batch), {}


class BatchOperator:
    """D for a batch of super-resolved patches, each with the slice thickness that is in its condition.

    Args:
        profile: slice profile.
    """

    def __init__(self, profile: str) -> None:
        self.profile = profile

    def __call__(
        self, hr: torch.Tensor, n_slices: int, positions: torch.Tensor, condition: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        """``(B, 1, H, N)`` to ``(B, 1, H, n_slices)``; the other arguments as :func:`told` gives them."""
        grid = SliceGrid.of_positions(n_slices, positions.tolist())
        thickness = [round(float(ratio), 4) for ratio in condition[:, 1]]
        return torch.stack(
            [SliceProfileOperator(grid, self.profile, t).degrade(x) for x, t in zip(hr, thickness, strict=True)]
        )
