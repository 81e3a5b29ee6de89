# SPDX-License-Identifier: Apache-2.0
"""Where voxels are: the thick axis, the super-resolution grid and its affine.

Vocabulary used everywhere in this bundle:

* A *voxel coordinate* is a float index ``(i, j, k)``; the centre of voxel ``(0, 0, 0)`` is the origin.
* An *affine* is a ``(4, 4)`` array that maps voxel coordinates to millimetres. It is RAS+ (NIfTI) unless the
  name says ``lps`` (DICOM).
* *Slice spacing* is the distance between neighbouring slice centres, from the positions. *Slice thickness* is
  the width of the slab that one slice averages. They are two different numbers.
* The *thick axis* is the voxel axis along which the slices are stacked. The other two axes are *in-plane*.
* *LR* is the acquired grid with ``n_slices`` along the thick axis, *HR* the grid with ``scale_factor`` (K) times
  as many slices **over the same physical slab**: slice ``k`` of the LR grid sits at HR coordinate
  ``k * K + (K - 1) / 2``, the centre of the block of K thin slices that it covers.

The one place where the half-voxel shift lives is :func:`hr_slice_coordinate`; the degradation operator and the
affine are both made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from nibabel.orientations import io_orientation

__all__ = [
    "Orientation",
    "find_thick_axis",
    "hr_slice_coordinate",
    "super_resolution_affine",
    "swap_lps_ras",
    "thick_slice_affine",
    "voxel_spacing_mm",
]

ANATOMICAL_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def hr_slice_coordinate(lr_coordinate: np.ndarray | float, scale_factor: int) -> np.ndarray | float:
    """HR coordinate of a point given by its LR coordinate along the thick axis: ``c = k * K + (K - 1) / 2``."""
    return lr_coordinate * scale_factor + (scale_factor - 1) / 2


def swap_lps_ras(affine: np.ndarray) -> np.ndarray:
    """A DICOM (LPS) affine as NIfTI's RAS+, or the other way round: the first two world axes change sign.

    Args:
        affine: ``(4, 4)`` voxel-to-world matrix in mm.

    Returns:
        A new ``(4, 4)`` float64 array.
    """
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)


def voxel_spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Distance in mm between neighbouring voxels along each voxel axis.

    Args:
        affine: ``(4, 4)`` voxel-to-world matrix.

    Returns:
        ``(3,)`` float64 array, one spacing per voxel axis.

    Raises:
        ValueError: if the affine is not a finite, invertible ``(4, 4)`` matrix.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"affine must be a finite (4, 4) matrix, got {affine.tolist()}; repair the image header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise ValueError(
            f"voxel spacing must be > 0 along three independent axes, got {spacing.tolist()} mm; repair the header"
        )
    return spacing


def find_thick_axis(affine: np.ndarray, thick_axis: str | int = "auto", min_anisotropy: float = 1.5) -> int:
    """Voxel axis along which the slices are thick.

    Args:
        affine: ``(4, 4)`` RAS affine of the acquired volume.
        thick_axis: ``"auto"`` takes the axis of the largest spacing and demands that it is at least
            ``min_anisotropy`` times the second largest. ``0``, ``1``, ``2`` name the voxel axis; ``"sagittal"``,
            ``"coronal"``, ``"axial"`` name the plane of the slices, whose normal must then be the nearest world axis
            of exactly one voxel axis.
        min_anisotropy: how much larger the slice spacing must be (dimensionless, > 1).

    Returns:
        The voxel axis, 0, 1 or 2.

    Raises:
        ValueError: if the axis is ambiguous (an isotropic volume, say) or the name is unknown.
    """
    spacing = voxel_spacing_mm(affine)
    if thick_axis == "auto":
        order = np.argsort(spacing)
        thick, second = int(order[2]), int(order[1])
        if spacing[thick] < min_anisotropy * spacing[second]:
            shown = " x ".join(f"{s:.3g}" for s in spacing)
            raise ValueError(
                f"slice spacing must be at least {min_anisotropy:g} times the in-plane spacing, got {shown} mm; "
                "the volume is already (nearly) isotropic, or name the axis with thick_axis"
            )
        return thick
    if thick_axis in ANATOMICAL_PLANES:
        directions = np.abs(np.asarray(affine, dtype=np.float64)[:3, :3] / spacing)
        nearest_world_axis = directions.argmax(axis=0)
        hits = np.flatnonzero(nearest_world_axis == ANATOMICAL_PLANES[thick_axis])
        if len(hits) != 1:
            raise ValueError(
                f"thick_axis {thick_axis!r} must match exactly one voxel axis, got {len(hits)}; name it as 0, 1 or 2"
            )
        return int(hits[0])
    if thick_axis in (0, 1, 2, "0", "1", "2"):
        return int(thick_axis)
    raise ValueError(
        f"thick_axis must be 'auto', 0, 1, 2, 'sagittal', 'coronal' or 'axial', got {thick_axis!r}; correct the id"
    )


@dataclass(frozen=True)
class Orientation:
    """How stored voxel axes become the working axes: in-plane axes in world order, thick axis last, none reversed.

    The working axes depend on where the voxels are in the world, not on how the file stores them, so the same scan
    saved with other axis order or flips gives the same result.

    Attributes:
        axes: stored axis that becomes working axis 0, 1, 2.
        flips: whether that axis is reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, affine: np.ndarray, thick_axis: int) -> Orientation:
        """Orientation of a volume with this RAS affine.

        Raises:
            ValueError: if the affine is not usable (see :func:`voxel_spacing_mm`).
        """
        voxel_spacing_mm(affine)
        world = io_orientation(np.asarray(affine, dtype=np.float64))  # (3, 2): world axis and sign of each voxel axis
        in_plane = sorted((axis for axis in range(3) if axis != thick_axis), key=lambda axis: world[axis, 0])
        axes = (in_plane[0], in_plane[1], thick_axis)
        return cls(axes, tuple(bool(world[axis, 1] < 0) for axis in axes))  # type: ignore[arg-type]

    def apply(self, volume: torch.Tensor) -> torch.Tensor:
        """``(C, I, J, K)`` stored axes to working axes, thick axis last."""
        volume = volume.permute(0, *(1 + axis for axis in self.axes))
        return volume.flip([1 + axis for axis in range(3) if self.flips[axis]])

    def undo(self, volume: torch.Tensor) -> torch.Tensor:
        """Working axes back to stored axes; the length along the thick axis may have changed."""
        volume = volume.flip([1 + axis for axis in range(3) if self.flips[axis]])
        return volume.permute(0, *(1 + self.axes.index(axis) for axis in range(3)))


def super_resolution_affine(affine: np.ndarray, thick_axis: int, scale_factor: int) -> np.ndarray:
    """Affine of the HR grid: spacing / K along ``thick_axis``, the same slab, every other axis untouched.

    Args:
        affine: ``(4, 4)`` affine of the LR grid.
        thick_axis: voxel axis 0, 1 or 2.
        scale_factor: K >= 1.

    Returns:
        ``(4, 4)`` float64 affine; the origin moves by ``-(K - 1) / (2 K)`` of an LR step.
    """
    return np.asarray(affine, dtype=np.float64) @ np.linalg.inv(_lr_to_hr_voxels(thick_axis, scale_factor))


def thick_slice_affine(affine: np.ndarray, thick_axis: int, scale_factor: int) -> np.ndarray:
    """Affine of the LR grid that the degradation operator makes of an HR volume; inverse of the above."""
    return np.asarray(affine, dtype=np.float64) @ _lr_to_hr_voxels(thick_axis, scale_factor)


def _lr_to_hr_voxels(thick_axis: int, scale_factor: int) -> np.ndarray:
    """``(4, 4)`` map from LR to HR voxel coordinates, read off :func:`hr_slice_coordinate`."""
    origin = hr_slice_coordinate(0.0, scale_factor)
    matrix = np.eye(4)
    matrix[thick_axis, thick_axis] = hr_slice_coordinate(1.0, scale_factor) - origin
    matrix[thick_axis, 3] = origin
    return matrix
