# SPDX-License-Identifier: Apache-2.0
"""Cubic interpolation along the last axis, at any positions."""

from __future__ import annotations

import torch

__all__ = ["interpolate_cubic"]


def interpolate_cubic(image: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Cubic convolution (Keys, 1981) with replicated edges and a = -3/4, as in torch's bicubic interpolation.

    Args:
        image: ``(..., n)``.
        positions: ``(N,)`` coordinates along the last axis; 0 is the centre of the first sample.

    Returns:
        ``(..., N)``.
    """
    base = torch.floor(positions)
    t = positions - base
    a = -0.75
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
