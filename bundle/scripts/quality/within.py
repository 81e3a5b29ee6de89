# SPDX-License-Identifier: Apache-2.0
"""What the slices themselves are like: how sharp, and whether they hold ghosts."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["detail_db", "ghosting"]


def detail_db(slices: torch.Tensor) -> float:
    """Detail in the slices: power in the finer half of their frequencies over that in the half below it, in dB.

    Along each in-plane axis, frequencies from 1/2 to 9/10 of the highest are held against those from 1/4 to 1/2; the
    poorer axis counts. Slices that were interpolated or zero-filled hold next to nothing in the finer half.

    Args:
        slices: ``(H1, H2, n)``, unit range.
    """
    found = []
    for axis in (0, 1):
        lines = slices.movedim(axis, -1).float()
        lines = lines - lines.mean(dim=-1, keepdim=True)
        spectrum = torch.fft.rfft(lines * torch.hann_window(lines.shape[-1])).abs().square().mean(dim=(0, 1))
        top = len(spectrum)
        fine, below = spectrum[top // 2 : top * 9 // 10].mean(), spectrum[top // 4 : top // 2].mean()
        found.append(float(10 * torch.log10((fine + 1e-12) / (below + 1e-12))))
    return min(found)


def ghosting(slices: torch.Tensor, tissue_share: float = 0.15, margin: int = 6, max_slices: int = 8) -> float | None:
    """How bright the copies of the tissue in the air are, as a share of the tissue.

    Air that a copy of the tissue, moved along one axis, would cover is held against air that it would not; the
    largest difference over both axes and all moves counts.

    Args:
        slices: ``(H1, H2, n)``, unit range.
        tissue_share: pixels above this share of the unit range are tissue.
        margin: air must be so many pixels away from tissue.
        max_slices: slices looked at, evenly spread.

    Returns:
        The share, or ``None`` where there is too little air to tell.
    """
    step = max(1, slices.shape[-1] // max_slices)
    stack = (slices[..., step // 2 :: step].movedim(-1, 0).float() + 1) / 2
    tissue = stack > tissue_share
    # holes are no air: what has tissue on all four sides is inside
    inside = torch.ones_like(tissue)
    for axis in (1, 2):
        count = tissue.long().cumsum(dim=axis)
        inside &= (count > 0) & (count < count.select(axis, -1).unsqueeze(axis))
    body = tissue | inside
    near = F.max_pool2d(body[:, None].float(), 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0
    air = ~near
    least = max(64, air.numel() // 200)
    if int(air.sum()) < 2 * least or not bool(tissue.any()):
        return None
    level = float(stack[tissue].mean())
    worst = 0.0
    for axis in (1, 2):
        length = stack.shape[axis]
        for move in range(max(2, length // 16), length // 2 + 1, max(1, length // 64)):
            covered = air & (body.roll(move, axis) | body.roll(-move, axis))
            free = air & ~covered
            if min(int(covered.sum()), int(free.sum())) >= least:
                worst = max(worst, float(stack[covered].mean() - stack[free].mean()) / level)
    return worst
