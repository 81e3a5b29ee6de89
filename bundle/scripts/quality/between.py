# SPDX-License-Identifier: Apache-2.0
"""Measure faults between slices, which no single slice shows: motion, and steps of intensity.

Every measure compares a slice with the mean of its two neighbours, so that steady changes of anatomy cancel. What
remains is a fault of one slice, or a difference between the two passes of an interleaved scan, which acquire the odd
and the even slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..intensity import TISSUE_LEVEL

__all__ = ["intensity_steps", "opposed_shift", "slice_shifts"]


def slice_shifts(
    slices: torch.Tensor, sigma: float = 2.0, iterations: int = 4, min_tissue: float = 0.05
) -> torch.Tensor:
    """In-plane shift of every inner slice against the mean of its neighbours.

    Least squares on the gradient (Lucas and Kanade, 1981) of smoothed slices, repeated with the slice moved back.

    Args:
        slices: ``(H1, H2, n)``, unit range.
        sigma: standard deviation of the Gaussian that smooths them, in pixels; shifts up to about twice that are found.
        iterations: number of least-squares steps.
        min_tissue: slices with a smaller share of tissue are left out.

    Returns:
        ``(m, 2)`` shifts in pixels, one per slice with tissue; positive if the slice is displaced along the axis.
    """
    stack = _smooth(slices.movedim(-1, 0).float(), sigma)
    target = (stack[:-2] + stack[2:]) / 2
    moving = stack[1:-1]
    border = 8 if min(stack.shape[1:]) > 32 else 2
    weight = ((target > TISSUE_LEVEL) | (moving > TISSUE_LEVEL)).float()
    weight[:, :border] = weight[:, -border:] = 0
    weight[:, :, :border] = weight[:, :, -border:] = 0
    enough = weight.mean(dim=(1, 2)) > min_tissue
    target, moving, weight = target[enough], moving[enough], weight[enough]
    if not len(target):
        return torch.zeros(0, 2)
    shifts = torch.zeros(len(target), 2)
    for _ in range(iterations):
        back = _translate(moving, -shifts)
        gradient = torch.stack(torch.gradient((target + back) / 2, dim=(1, 2)), dim=1) * weight[:, None].sqrt()
        residual = (target - back) * weight.sqrt()
        g = gradient.flatten(2)
        normal = g @ g.mT + 1e-6 * torch.eye(2)
        shifts = shifts + torch.linalg.solve(normal, (g @ residual.flatten(1)[..., None])[..., 0])
    return shifts


def opposed_shift(shifts: torch.Tensor) -> float | None:
    """Typical size of the shifts that are opposed to the next slice's.

    If every other slice has moved, each slice is shifted against its neighbours, and the next one is shifted by as much
    the other way. A change of anatomy also looks like a shift, but the next slice does not undo it. So the size is the
    root of the median of ``-s_k s_k+1``, or 0 if that is negative.

    Args:
        shifts: ``(m, 2)``, of :func:`slice_shifts`.

    Returns:
        The size in pixels, or ``None`` for fewer than two slices.
    """
    if len(shifts) < 2:
        return None
    return float((-(shifts[:-1] * shifts[1:]).sum(dim=1)).median().clamp(min=0).sqrt())


def _smooth(images: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = int(3 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    images = F.pad(images[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(images, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]


def _translate(images: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Move images of ``(m, H, W)`` by ``(m, 2)`` pixels, linearly interpolated."""
    height, width = images.shape[1:]
    matrix = torch.eye(2, 3).repeat(len(images), 1, 1)
    matrix[:, 0, 2] = -2 * shifts[:, 1] / width
    matrix[:, 1, 2] = -2 * shifts[:, 0] / height
    grid = F.affine_grid(matrix, [len(images), 1, height, width], align_corners=False)
    return F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def intensity_steps(slices: torch.Tensor, shares: Sequence[float], min_tissue: float = 0.05) -> torch.Tensor:
    """Relative brightness of every inner slice against the mean of its neighbours.

    A fault of the slice changes all of its tissue alike, but a change of anatomy makes one part brighter and another
    darker. So the step is the change on which a share of the tissue agrees.

    Args:
        slices: ``(H1, H2, n)``, unit range.
        shares: shares of the tissue that must agree, each at least 0.5, which gives the median.
        min_tissue: slices with a smaller share of tissue are left out and count as 0.

    Returns:
        ``(shares, n - 2)``: the slice divided by the mean of its neighbours, minus 1: the smallest change that a share
        of the tissue exceeds in one direction, or 0 if there is no such direction.
    """
    stack = slices.movedim(-1, 0).float()
    around, own = (stack[:-2] + stack[2:]) / 2, stack[1:-1]
    steps = torch.zeros(len(shares), len(own))
    agreed = torch.tensor(shares)
    for index, (a, b) in enumerate(zip(around, own, strict=True)):
        tissue = (a > TISSUE_LEVEL) & (b > TISSUE_LEVEL)
        if float(tissue.float().mean()) > min_tissue:
            ratio = (b[tissue] + 1) / (a[tissue] + 1) - 1
            darkest, brightest = torch.quantile(ratio, torch.stack([1 - agreed, agreed]).flatten()).chunk(2)
            steps[:, index] = darkest.clamp(min=0) + brightest.clamp(max=0)
    return steps
