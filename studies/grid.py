# SPDX-License-Identifier: Apache-2.0
"""Check that a result lies on the grid of the truth. A wrong grid changes scores more than the choice of method."""

from __future__ import annotations

import numpy as np

__all__ = ["LARGEST_SHIFT", "shift_voxels"]

LARGEST_SHIFT = 0.2  # voxels; a wrong grid is displaced by at least half a voxel


def shift_voxels(result: np.ndarray, truth: np.ndarray, axis: int) -> float:
    """Displacement of a result along an axis, to first order.

    If ``r(z) = (h * t)(z - s)`` with any symmetric blur ``h``, then ``r - t = -s g' + even terms``, where ``g`` is the
    mean of both. Least squares (Lucas and Kanade 1981) then gives ``s = -<r - t, g'> / <g', g'>``, so blur is not
    taken for a shift.

    Args:
        result: ``(I, J, K)``.
        truth: same shape.
        axis: axis of the displacement.

    Returns:
        The displacement in voxels, positive towards larger indices; 0 for a truth that is constant along the axis.
    """
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    slope = np.gradient((result + truth) / 2, axis=axis)
    energy = float((slope**2).sum())
    return -float(((result - truth) * slope).sum()) / energy if energy > 0 else 0.0
