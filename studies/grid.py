# SPDX-License-Identifier: Apache-2.0
"""Does a result lie on the grid of the truth? A wrong grid costs more than the whole spread of the table."""

from __future__ import annotations

import numpy as np

__all__ = ["LARGEST_SHIFT", "shift_voxels"]

LARGEST_SHIFT = 0.2  # voxels; a grid that is wrong is wrong by at least half a voxel


def shift_voxels(result: np.ndarray, truth: np.ndarray, axis: int) -> float:
    """By how much a result is displaced along an axis, to first order.

    If ``r(z) = (h * t)(z - s)`` with any symmetric blur ``h``, then ``r - t = -s g' + even terms``, where ``g`` is the
    mean of both, so that least squares (Lucas and Kanade 1981) gives ``s = -<r - t, g'> / <g', g'>``: blur does not
    look like a shift.

    Args:
        result: ``(I, J, K)``.
        truth: same shape.
        axis: along which.

    Returns:
        Voxels, positive towards larger indices; 0 for a truth that does not vary along the axis.
    """
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    slope = np.gradient((result + truth) / 2, axis=axis)
    energy = float((slope**2).sum())
    return -float(((result - truth) * slope).sum()) / energy if energy > 0 else 0.0
