# SPDX-License-Identifier: Apache-2.0
"""Cubic interpolation along the last axis, at any positions, and the detail that an image leaves room for."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["interpolate_cubic", "keep_linear", "nearest_slices"]


def interpolate_cubic(image: torch.Tensor, positions: torch.Tensor, a: float = -0.75) -> torch.Tensor:
    """Cubic convolution (Keys, 1981) with replicated edges.

    Args:
        image: ``(..., n)``.
        positions: ``(N,)`` coordinates along the last axis; 0 is the centre of the first sample.
        a: slope of the kernel at 1; -3/4 as in torch's bicubic interpolation, while -1/2 reproduces linear ramps.

    Returns:
        ``(..., N)``.
    """
    base = torch.floor(positions)
    t = positions - base
    weights = (
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    )
    first = base.long() - 1
    last = image.shape[-1] - 1
    result = image.index_select(-1, first.clamp(0, last)) * weights[0].to(image.dtype)
    for tap in (1, 2, 3):
        result = result + image.index_select(-1, (first + tap).clamp(0, last)) * weights[tap].to(image.dtype)
    return result


def nearest_slices(positions: torch.Tensor, count: int) -> torch.Tensor:
    """``(N,)`` int64 index of the thick slice, of ``count``, that is nearest to each of ``positions``."""
    return torch.floor(positions + 0.5).clamp(0, count - 1).long()


def keep_linear(pred: torch.Tensor, image: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Keep a result linear where the image is linear, since no detail can be seen there.

    The difference between the result and cubic convolution that reproduces ramps (``a = -1/2``) is limited to the
    range of the slopes along both axes, among the 5 x 5 pixels around. This range is 0 in a linear ramp in any
    direction, and large wherever there is noise or structure.

    Args:
        pred: ``(B, 1, H, N)``, the result.
        image: ``(B, 1, H, n)`` thick slices.
        positions: ``(N,)`` thick coordinates of the thin slices.

    Returns:
        ``(B, 1, H, N)``.
    """
    room = _range(_slopes(image, 2)) + _range(_slopes(image, 3))
    room = room.index_select(-1, nearest_slices(positions, image.shape[-1]))
    ramp = interpolate_cubic(image, positions, a=-0.5)
    return torch.maximum(torch.minimum(pred, ramp + room), ramp - room)


def _slopes(image: torch.Tensor, dim: int) -> torch.Tensor:
    """Differences between neighbours along ``dim``; the last one is repeated, so that the shape stays the same."""
    size = image.shape[dim]
    first = torch.arange(size, device=image.device).clamp(max=size - 2).clamp(min=0)
    return image.index_select(dim, (first + 1).clamp(max=size - 1)) - image.index_select(dim, first)


def _range(slopes: torch.Tensor) -> torch.Tensor:
    """Largest minus least of the 5 x 5 pixels around."""
    return F.max_pool2d(slopes, 5, stride=1, padding=2) + F.max_pool2d(-slopes, 5, stride=1, padding=2)
