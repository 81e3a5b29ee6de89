# SPDX-License-Identifier: Apache-2.0
"""Position of the acquired slices among the thin slices, from the two affines alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

__all__ = ["Stack", "compare_grids"]


@dataclass(frozen=True)
class Stack:
    """An acquired stack of slices in the coordinates of the thin grid that was made from it.

    A *thin coordinate* is a float index along the thick axis of the result; thin slice ``j`` has its centre at ``j``.

    Attributes:
        thick_axis: stored voxel axis, 0, 1 or 2, the same in both volumes.
        acquired_spacing_mm: distance between the centres of neighbouring acquired slices.
        result_spacing_mm: distance between the centres of neighbouring thin slices.
        slice_thickness_mm: width of the slab that one acquired slice averages, or ``None`` if no source states it.
        result_slices: number of thin slices.
        centres: thin coordinate of the centre of each acquired slice, in the order of the scan's slices.
        world_to_result: ``(4, 4)`` matrix from RAS mm to voxel coordinates of the result, as nested lists.
        acquired_affine_ras: ``(4, 4)`` matrix from voxel coordinates of the scan to RAS mm, as nested lists.
        result_affine_ras: the same matrix for the result.
    """

    thick_axis: int
    acquired_spacing_mm: float
    result_spacing_mm: float
    slice_thickness_mm: float | None
    result_slices: int
    centres: list[float]
    world_to_result: list[list[float]]
    acquired_affine_ras: list[list[float]]
    result_affine_ras: list[list[float]]

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as plain JSON types for the page."""
        return asdict(self)


def compare_grids(
    acquired_affine: np.ndarray,
    acquired_shape: tuple[int, ...],
    result_affine: np.ndarray,
    result_shape: tuple[int, ...],
    slice_thickness_mm: float | None = None,
    tolerance: float = 0.02,
) -> Stack:
    """Place the acquired slices on the thin grid. The factor between the two may be any number.

    Args:
        acquired_affine: ``(4, 4)`` RAS affine of the scan.
        acquired_shape: number of voxels along its three axes.
        result_affine: ``(4, 4)`` RAS affine of the result.
        result_shape: number of voxels along its three axes.
        slice_thickness_mm: thickness of an acquired slice, if it is known.
        tolerance: largest distance between the in-plane grids at the corners of the scan, in voxels of the result.

    Raises:
        ValueError: if the two grids do not share their in-plane grid, so that their slices are not parallel.
    """
    acquired_affine = np.asarray(acquired_affine, dtype=np.float64)
    result_affine = np.asarray(result_affine, dtype=np.float64)
    acquired_spacing, result_spacing = voxel_sizes(acquired_affine), voxel_sizes(result_affine)
    thick_axis = int(np.argmax(acquired_spacing / result_spacing))
    if np.allclose(acquired_spacing, result_spacing, rtol=1e-3):
        thick_axis = int(np.argmax(acquired_spacing))
    to_result = np.linalg.inv(result_affine) @ acquired_affine
    corners = np.array(
        [[i, j, k, 1] for i in (0, acquired_shape[0] - 1) for j in (0, acquired_shape[1] - 1)
         for k in (0, acquired_shape[2] - 1)], dtype=np.float64,
    )  # fmt: skip
    apart = np.delete((corners @ to_result.T - corners)[:, :3], thick_axis, axis=1)
    in_plane = np.delete(np.asarray(acquired_shape), thick_axis), np.delete(np.asarray(result_shape), thick_axis)
    if np.abs(apart).max() > tolerance or (in_plane[0] != in_plane[1]).any():
        raise ValueError(
            f"result must share the in-plane grid of the scan, got shapes {tuple(acquired_shape)} and "
            f"{tuple(result_shape)} that lie up to {np.abs(apart).max():.3g} pixels apart; "
            "give the scan from which this result was made"
        )
    if slice_thickness_mm is not None and not slice_thickness_mm > 0:
        slice_thickness_mm = None
    step, start = to_result[thick_axis, thick_axis], to_result[thick_axis, 3]
    return Stack(
        thick_axis=thick_axis,
        acquired_spacing_mm=float(acquired_spacing[thick_axis]),
        result_spacing_mm=float(result_spacing[thick_axis]),
        slice_thickness_mm=None if slice_thickness_mm is None else float(slice_thickness_mm),
        result_slices=int(result_shape[thick_axis]),
        centres=[float(start + step * k) for k in range(acquired_shape[thick_axis])],
        world_to_result=np.linalg.inv(result_affine).tolist(),
        acquired_affine_ras=acquired_affine.tolist(),
        result_affine_ras=result_affine.tolist(),
    )
