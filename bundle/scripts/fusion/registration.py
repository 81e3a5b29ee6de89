# SPDX-License-Identifier: Apache-2.0
"""Rigid movement of the patient between two stacks of one session, a few mm and degrees at most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from ..geometry import voxel_spacing_mm
from .resampling import Interpolated

__all__ = ["Registration", "register_rigid"]


@dataclass(frozen=True)
class Registration:
    """How the patient lay when the fixed volume was acquired, as seen from the moving one.

    Attributes:
        matrix: ``(4, 4)`` rigid matrix; a place of the fixed scan, in mm, to the same tissue in the moving one.
        rotation_degrees: angle of the rotation.
        shift_mm: how far the centre of the common field moves.
        correlation_before: of the two volumes where both are known, with the affines alone.
        correlation: the same after the movement.
    """

    matrix: np.ndarray
    rotation_degrees: float
    shift_mm: float
    correlation_before: float
    correlation: float


def register_rigid(
    moving: np.ndarray,
    moving_affine: np.ndarray,
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    thick_axis: int,
    thickness_to_spacing: float = 1.0,
    smoothing_mm: float = 1.0,
    points: int = 20000,
    least_overlap: float = 0.1,
) -> Registration:
    """Find the movement under which a thin-slice volume looks most like the slices of a thick stack.

    The correlation of the intensities is maximised over three angles and three shifts (Powell's method), over random
    voxels of the stack. What the thin volume shows is averaged over the thickness of the stack's slices.

    Args:
        moving: ``(I, J, K)`` thin slices.
        moving_affine: ``(4, 4)`` RAS.
        fixed: ``(I, J, K)`` thick slices.
        fixed_affine: ``(4, 4)`` RAS.
        thick_axis: voxel axis of the slices of ``fixed``.
        thickness_to_spacing: their thickness over their spacing.
        smoothing_mm: standard deviation of the Gaussian that smooths the volume, and the stack in its slices.
        points: voxels of ``fixed`` that are looked at, at most.
        least_overlap: share of the voxels of ``fixed`` that must lie in ``moving``.

    Raises:
        ValueError: if the two hardly overlap.
    """
    moving_mm, fixed_mm = voxel_spacing_mm(moving_affine), voxel_spacing_mm(fixed_affine)
    blurred = gaussian_filter(np.asarray(moving, np.float32), smoothing_mm / moving_mm)
    smooth = Interpolated(blurred, moving_affine, order=1)
    widths = smoothing_mm / fixed_mm
    widths[thick_axis] = 0
    target = gaussian_filter(np.asarray(fixed, np.float32), widths)
    rng = np.random.default_rng(0)
    voxels = np.stack([rng.integers(0, n, 8 * points) for n in fixed.shape]).astype(np.float64)
    _, inside = smooth.at(voxels, fixed_affine)
    if inside.mean() < least_overlap:
        raise ValueError(
            f"stacks must show the same place, got an overlap of {inside.mean():.0%}; check that they are of one "
            "session and one part of the body"
        )
    voxels = voxels[:, inside][:, :points]
    values = target[tuple(voxels.astype(int))]
    centre = fixed_affine[:3, :3] @ voxels.mean(axis=1) + fixed_affine[:3, 3]
    offsets = (np.arange(3) - 1) / 3 * thickness_to_spacing
    slab = np.repeat(voxels[:, None], len(offsets), axis=1)
    slab[thick_axis] += offsets[:, None]

    def correlation(parameters: np.ndarray) -> float:
        found, known = smooth.at(slab, _rigid(parameters, centre) @ fixed_affine)
        kept = np.asarray(known.all(axis=0))
        if kept.sum() < max(10, least_overlap * len(kept)):
            return 0.0
        return float(np.corrcoef(found.mean(axis=0)[kept], values[kept])[0, 1])

    # one unit: a mm, or the degree that moves the edge of a field of 115 mm by a mm
    best = minimize(
        lambda x: -correlation(x), np.zeros(6), method="Powell", bounds=[(-10, 10)] * 6,
        options={"xtol": 0.01, "ftol": 1e-6},
    ).x  # fmt: skip
    return Registration(
        _rigid(best, centre),
        float(np.linalg.norm(best[:3])),
        float(np.linalg.norm(best[3:])),
        correlation(np.zeros(6)),
        correlation(best),
    )


def _rigid(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """``(4, 4)``: rotation vector in degrees about ``centre``, then a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(parameters[:3], degrees=True).as_matrix()
    matrix[:3, 3] = centre + parameters[3:] - matrix[:3, :3] @ centre
    return matrix
