# SPDX-License-Identifier: Apache-2.0
"""Measure faults within slices: missing detail, ghosts, and spikes in the raw data."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["detail_db", "ghosting", "spikes_db"]


def detail_db(slices: torch.Tensor) -> float:
    """Detail in the slices: power at high frequencies over power at middle frequencies, in dB.

    Along each in-plane axis, frequencies from 1/2 to 9/10 of the highest are compared with those from 1/4 to 1/2. The
    axis with less detail counts. Slices that were interpolated or zero-filled have almost no power at high frequencies.

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
    """Brightness of copies of the tissue in the air, as a share of the brightness of the tissue.

    A copy of the tissue, shifted along one axis, would cover some of the air. That air is compared with the rest of the
    air. The largest difference over both axes and all shifts counts.

    Args:
        slices: ``(H1, H2, n)``, unit range.
        tissue_share: pixels above this share of the unit range are tissue.
        margin: a pixel counts as air if it is at least so many pixels away from tissue.
        max_slices: the most slices that are examined; they are evenly spread.

    Returns:
        The share, or ``None`` if there is too little air.
    """
    step = max(1, slices.shape[-1] // max_slices)
    stack = (slices[..., step // 2 :: step].movedim(-1, 0).float() + 1) / 2
    tissue = stack > tissue_share
    # holes are not air: a pixel with tissue on all four sides is inside
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


def spikes_db(slices: torch.Tensor, block: int = 8, lowest: float = 1 / 16) -> float | None:
    """How far a spike in the raw data of a slice stands out, in dB.

    A spike, which is seen as stripes all over the slice, is one point of its spectrum. So the highest point of each
    block of the spectrum is divided by the median of the block, with the mean of these medians added so that an almost
    empty block does not count. The result is compared with the median over the slices, because what all of them share
    is the scanner's filter or the anatomy. The block and the slice that stand out most count.

    Args:
        slices: ``(H1, H2, n)``, unit range.
        block: side of a block, in points of the spectrum.
        lowest: frequencies below this along both axes are left out, in cycles per pixel.

    Returns:
        The ratio in dB, or ``None`` if the slices are smaller than two blocks.
    """
    stack = slices.movedim(-1, 0).float()
    height, width = stack.shape[1:]
    if min(height, width) < 2 * block:
        return None
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    spectrum = torch.fft.rfft2((stack - stack.mean(dim=(1, 2), keepdim=True)) * window).abs()
    low = (torch.fft.fftfreq(height).abs()[:, None] < lowest) & (torch.fft.rfftfreq(width) < lowest)
    blocks = (spectrum * ~low).unfold(1, block, block).unfold(2, block, block).flatten(-2)
    level = blocks.median(dim=-1).values
    peaks = blocks.amax(dim=-1) / (level + level.mean(dim=(1, 2), keepdim=True)).clamp(min=1e-9)
    return float(20 * torch.log10((peaks / peaks.median(dim=0).values.clamp(min=1)).max().clamp(min=1)))
