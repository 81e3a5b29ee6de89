# SPDX-License-Identifier: Apache-2.0
"""Resample a volume to the voxels of another grid, by the affines of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter

__all__ = ["Interpolated", "grid_voxels"]


def grid_voxels(shape: Sequence[int]) -> np.ndarray:
    """``(3, I, J, K)`` float64 voxel coordinates of a grid."""
    return np.indices(tuple(shape), dtype=np.float64)


class Interpolated:
    """A volume that can be interpolated at any position between its outermost voxel centres.

    Args:
        volume: ``(I, J, K)``.
        affine_ras: ``(4, 4)``.
        order: order of the splines, 3 or 1.
    """

    def __init__(self, volume: np.ndarray, affine_ras: np.ndarray, order: int = 3) -> None:
        self.shape = np.asarray(volume.shape)
        self.to_voxel = np.linalg.inv(np.asarray(affine_ras, dtype=np.float64))
        self.order = order
        values = np.asarray(volume, dtype=np.float32)
        self._coefficients = spline_filter(values, order, output=np.float32) if order > 1 else values

    def at(self, voxels: np.ndarray, affine_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values at voxels of another grid.

        Args:
            voxels: ``(3, ...)`` voxel coordinates on the other grid.
            affine_ras: ``(4, 4)`` affine of the other grid, multiplied by a movement of the patient if there is one.

        Returns:
            Float32 values, 0 outside, and a bool that is true where they are known, both of the shape of one
            coordinate.
        """
        matrix = self.to_voxel @ np.asarray(affine_ras, dtype=np.float64)
        own = np.tensordot(matrix[:3, :3], voxels, axes=1)
        own += matrix[:3, 3].reshape(3, *[1] * (own.ndim - 1))
        limits = (self.shape - 1).reshape(3, *[1] * (own.ndim - 1))
        inside = np.asarray(((own >= -1e-3) & (own <= limits + 1e-3)).all(axis=0))
        values = np.zeros(inside.shape, np.float32)
        values[inside] = map_coordinates(
            self._coefficients, own[:, inside], np.float32, order=self.order, mode="nearest", prefilter=False
        )
        return values, inside
