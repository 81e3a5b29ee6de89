# SPDX-License-Identifier: Apache-2.0
"""Where voxels are: the thick axis, the super-resolution grid and its affine.

Vocabulary used everywhere in this bundle:

* A *voxel coordinate* is a float index ``(i, j, k)``; the centre of voxel ``(0, 0, 0)`` is the origin.
* An *affine* is a ``(4, 4)`` array that maps voxel coordinates to millimetres. It is RAS+ (NIfTI) unless the
  name says ``lps`` (DICOM).
* *Slice spacing* is the distance between neighbouring slice centres, from the positions. *Slice thickness* is
  the width of the slab that one slice averages. They are two different numbers.
* The *thick axis* is the voxel axis along which the slices are stacked. The other two axes are *in-plane*.
* *LR* is the acquired grid with ``n_slices`` along the thick axis, *HR* the grid of thin slices **over the same
  physical slab**. The scale factor ``K`` is slice spacing over thin spacing, any real number above 1.

Only :class:`SliceGrid` knows the half-voxel shift between the two grids. The degradation operator, the network's
positions and the affine are all made from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from nibabel.orientations import io_orientation

__all__ = [
    "Orientation",
    "SliceGrid",
    "check_target",
    "choose_scale_factor",
    "find_thick_axis",
    "swap_lps_ras",
    "voxel_spacing_mm",
]

ANATOMICAL_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class SliceGrid:
    """Where thick and thin slices lie relative to each other, along the thick axis.

    Attributes:
        n_slices: number of thick slices.
        n_thin: number of thin slices.
        scale_factor: K = slice spacing / thin spacing, any real number > 0.
        first: thin coordinate of thick slice 0; thick slice ``k`` lies at ``first + k K``.
    """

    n_slices: int
    n_thin: int
    scale_factor: float
    first: float

    def __post_init__(self) -> None:
        if self.n_slices < 1 or self.n_thin < 1 or not self.scale_factor > 0:
            raise ValueError(
                "a grid must have slices and a scale factor > 0, got "
                f"{self.n_slices} thick and {self.n_thin} thin ones, K = {self.scale_factor}"
            )

    @classmethod
    def over_slab(cls, n_slices: int, scale_factor: float) -> SliceGrid:
        """The thin grid of ``n_slices`` thick slices: ``round(n K)`` thin slices, centred on the slab.

        For a whole K, thick slice ``k`` lies at thin coordinate ``k K + (K - 1) / 2``, the centre of its K thin slices.
        The outer faces of the slab and of the thin grid differ by at most half a thin slice, equally at both ends.
        """
        n_thin = max(1, math.floor(n_slices * scale_factor + 0.5))
        return cls(n_slices, n_thin, scale_factor, (n_thin - 1) / 2 - (n_slices - 1) / 2 * scale_factor)

    @classmethod
    def under_slab(cls, n_thin: int, scale_factor: float) -> SliceGrid:
        """The thick grid to which a volume of ``n_thin`` slices is degraded: as many slices as fit, from the start.

        Thin slices that are left over at the end are cut off. The grid is :meth:`over_slab` of the thick slices.

        Raises:
            ValueError: if not even one thick slice fits.
        """
        n_slices = math.floor(n_thin / scale_factor + 1e-6)
        if n_slices < 1:
            raise ValueError(f"there must be at least {scale_factor:g} thin slices, got {n_thin}; use a smaller factor")
        grid = cls.over_slab(n_slices, scale_factor)
        return grid if grid.n_thin <= n_thin else cls.over_slab(n_slices - 1, scale_factor)

    @classmethod
    def covering(cls, n_thin: int, scale_factor: float) -> SliceGrid:
        """The ``ceil(n_thin / K)`` thick slices that cover a window of ``n_thin`` thin slices, centred on it."""
        n_slices = math.ceil(n_thin / scale_factor - 1e-6)
        return cls(n_slices, n_thin, scale_factor, (n_thin - 1) / 2 - (n_slices - 1) / 2 * scale_factor)

    @classmethod
    def of_positions(cls, n_slices: int, positions: Sequence[float]) -> SliceGrid:
        """The grid that has these :attr:`positions`, of which there must be at least two."""
        scale_factor = round((len(positions) - 1) / (positions[-1] - positions[0]), 5)
        return cls(n_slices, len(positions), scale_factor, round(-positions[0] * scale_factor, 5))

    def widened(self, margin: int) -> SliceGrid:
        """The same thick slices with ``margin`` more thin slices on both sides."""
        return replace(self, n_thin=self.n_thin + 2 * margin, first=self.first + margin)

    @property
    def slice_coordinates(self) -> np.ndarray:
        """``(n_slices,)`` thin coordinates of the thick slices."""
        return self.first + np.arange(self.n_slices, dtype=np.float64) * self.scale_factor

    @property
    def positions(self) -> np.ndarray:
        """``(n_thin,)`` thick coordinates of the thin slices."""
        return (np.arange(self.n_thin, dtype=np.float64) - self.first) / self.scale_factor

    def positions_tensor(self, device: torch.device | str | None = None) -> torch.Tensor:
        """:attr:`positions` as ``(n_thin,)`` float32 on a device, for the networks and for cubic interpolation."""
        return torch.tensor(self.positions, dtype=torch.float32, device=device)

    @property
    def nearest_slices(self) -> np.ndarray:
        """``(n_thin,)`` int64 index of the thick slice that is nearest to each thin slice."""
        return np.rint(self.positions).astype(np.int64).clip(0, self.n_slices - 1)

    def thin_affine(self, affine: np.ndarray, thick_axis: int) -> np.ndarray:
        """``(4, 4)`` affine of the thin grid, from the affine of the thick grid."""
        return np.asarray(affine, dtype=np.float64) @ np.linalg.inv(self._thick_to_thin(thick_axis))

    def thick_affine(self, affine: np.ndarray, thick_axis: int) -> np.ndarray:
        """``(4, 4)`` affine of the thick grid, from the affine of the thin grid."""
        return np.asarray(affine, dtype=np.float64) @ self._thick_to_thin(thick_axis)

    def _thick_to_thin(self, thick_axis: int) -> np.ndarray:
        """``(4, 4)`` map from thick to thin voxel coordinates."""
        matrix = np.eye(4)
        matrix[thick_axis, thick_axis] = self.scale_factor
        matrix[thick_axis, 3] = self.first
        return matrix


def check_target(target_spacing_mm: float | str | None, scale_factor: float | None, max_scale_factor: float) -> None:
    """Check that ``target_spacing_mm`` and ``scale_factor`` are valid, alone and together.

    Raises:
        ValueError: if one of them is not valid, or if both are given; the message names it.
    """
    if scale_factor is None:
        number = isinstance(target_spacing_mm, (int, float)) and target_spacing_mm > 0
        if target_spacing_mm != "isotropic" and not number:
            raise ValueError(
                f"target_spacing_mm must be a number of mm > 0 or 'isotropic', got {target_spacing_mm!r}; "
                "correct it, or give scale_factor"
            )
    elif target_spacing_mm not in (None, "isotropic"):
        raise ValueError(
            f"only one of target_spacing_mm and scale_factor must be given, got {target_spacing_mm} and "
            f"{scale_factor}; leave one out"
        )
    elif not 1 < scale_factor <= max_scale_factor:
        raise ValueError(
            f"scale_factor must be > 1 and <= max_scale_factor ({max_scale_factor:g}), got {scale_factor:g}; correct it"
        )


def choose_scale_factor(
    spacing_mm: np.ndarray,
    target_spacing_mm: float | str | None,
    scale_factor: float | None,
    max_scale_factor: float,
) -> tuple[float, str]:
    """Choose how many thin slices a scan gets per thick slice.

    Args:
        spacing_mm: ``(3,)``, slice spacing last.
        target_spacing_mm: thin spacing in mm, or ``isotropic`` for the finer in-plane spacing.
        scale_factor: K; it takes precedence over ``isotropic``.
        max_scale_factor: largest K; a target that needs a larger one gets this one.

    Returns:
        K, and a line that says what was chosen and why. The line begins with ``limited`` if the target is not reached.

    Raises:
        ValueError: if the slice spacing of the scan is not larger than the target.
    """
    slices_mm = float(spacing_mm[2])
    if scale_factor is not None:
        factor = float(scale_factor)
        return factor, f"{slices_mm:.4g} mm to {slices_mm / factor:.4g} mm, scale_factor {factor:g} as asked"
    if target_spacing_mm == "isotropic":
        target, asked = float(min(spacing_mm[:2])), "isotropic with the finer in-plane spacing"
    else:
        target, asked = float(target_spacing_mm), "target_spacing_mm as asked"  # type: ignore[arg-type]
    factor = slices_mm / target
    if not factor > 1:
        raise ValueError(
            f"the slice spacing must be larger than the target of {target:.4g} mm, got {slices_mm:.4g} mm; "
            "the scan is already as fine, or give a finer target_spacing_mm"
        )
    if factor > max_scale_factor:
        return float(max_scale_factor), (
            f"limited: {slices_mm:.4g} mm to {slices_mm / max_scale_factor:.4g} mm, since {target:.4g} mm ({asked}) "
            f"would need K = {factor:.3g} and at most {max_scale_factor:g} is allowed"
        )
    return factor, f"{slices_mm:.4g} mm to {target:.4g} mm, K = {factor:.4g}, {asked}"


def swap_lps_ras(affine: np.ndarray) -> np.ndarray:
    """Convert a DICOM (LPS) affine to NIfTI's RAS+, or back: the first two world axes change sign.

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
        thick_axis: ``"auto"`` takes the axis with the largest spacing, which must be at least ``min_anisotropy`` times
            the second largest. ``0``, ``1``, ``2`` name the voxel axis; ``"sagittal"``,
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
    """How stored voxel axes become working axes: in-plane axes in world order, thick axis last, no axis reversed.

    The working axes depend on where the voxels are in the world, not on how the file stores them. So the same scan
    gives the same result if it is saved with another order or direction of its axes.

    Attributes:
        axes: the stored axes that become working axes 0, 1 and 2.
        flips: whether each of them is reversed.
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

    def working_to_stored(self, shape: Sequence[int]) -> np.ndarray:
        """``(4, 4)`` map from working to stored voxel coordinates.

        Args:
            shape: ``(3,)`` of the volume, working axes.
        """
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for working, (stored, flipped) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[stored, working] = -1 if flipped else 1
            matrix[stored, 3] = shape[working] - 1 if flipped else 0
        return matrix

    def undo(self, volume: torch.Tensor) -> torch.Tensor:
        """Working axes back to stored axes; the length along the thick axis may have changed."""
        volume = volume.flip([1 + axis for axis in range(3) if self.flips[axis]])
        return volume.permute(0, *(1 + self.axes.index(axis) for axis in range(3)))
