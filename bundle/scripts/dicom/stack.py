# SPDX-License-Identifier: Apache-2.0
"""Check that slices form one volume, with unique, uniform and unsheared positions along the normal.

Only ImagePositionPatient and ImageOrientationPatient count. SliceLocation, SpacingBetweenSlices, InstanceNumber and
file names are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..reasons import CaseError, Reason
from .headers import Header

__all__ = ["Stack", "check_plane", "check_plane_facts", "slice_positions_mm", "stack_slices"]

SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class Stack:
    """Slices in order.

    Attributes:
        order: indices of the given slices in order of position along the normal (row x column direction).
        affine_lps: ``(4, 4)`` from ``(column, row, slice)`` to mm (LPS); its third column is the mean step.
        warnings: faults that are tolerated.
    """

    order: tuple[int, ...]
    affine_lps: np.ndarray
    warnings: tuple[CaseError, ...]


def check_plane_facts(headers: Sequence[Header]) -> None:
    """Demand that every slice of a stack states its geometry and that all planes agree.

    Raises:
        CaseError: ``NO_GEOMETRY``, ``MIXED_ORIENTATION`` or ``MIXED_GEOMETRY``.
    """
    for header in headers:
        check_plane(header)
    orientations = np.array([header.orientation for header in headers])
    spread = np.abs(orientations - orientations[0]).max()
    if spread > 1e-3:
        message = f"slices of one series must be parallel, got direction cosines that differ by {spread:.4f}; split it"
        raise CaseError(Reason.MIXED_ORIENTATION, message)
    if len(sizes := {(header.rows, header.columns) for header in headers}) > 1:
        shown = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        raise CaseError(Reason.MIXED_GEOMETRY, f"slices of one series must have one matrix, got {shown}; split it")
    spacings = np.array([header.spacing for header in headers])
    if (np.abs(spacings / spacings[0] - 1) > 1e-3).any():
        shown = f"{spacings.min():.4f} to {spacings.max():.4f} mm"
        raise CaseError(
            Reason.MIXED_GEOMETRY, f"slices of one series must have one pixel spacing, got {shown}; split it"
        )
    thicknesses = np.array([header.slice_thickness or 0.0 for header in headers])
    if np.ptp(thicknesses) > 0.01 * np.abs(thicknesses).max():
        shown = f"{thicknesses.min():.4f} to {thicknesses.max():.4f} mm"
        raise CaseError(
            Reason.MIXED_GEOMETRY, f"slices of one series must have one slice thickness, got {shown}; split it"
        )


def check_plane(header: Header) -> None:
    """Demand that a slice states its geometry.

    Raises:
        CaseError: ``NO_GEOMETRY``.
    """
    if header.rows < 1 or header.columns < 1:
        raise CaseError(
            Reason.NO_GEOMETRY, f"an image must have rows and columns, got {header.rows} x {header.columns}"
        )
    for name, value in (
        ("ImagePositionPatient", header.position),
        ("ImageOrientationPatient", header.orientation),
        ("PixelSpacing", header.spacing),
    ):
        if value is None:
            message = f"every slice must state a finite {name}, but one does not; export the series again"
            raise CaseError(Reason.NO_GEOMETRY, message)
    if min(header.spacing or (0,)) <= 0:
        raise CaseError(Reason.NO_GEOMETRY, f"PixelSpacing must be > 0, got {header.spacing}; export the series again")
    row, column = np.asarray(header.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 1e-3 or abs(row @ column) > 1e-3:
        raise CaseError(
            Reason.NO_GEOMETRY,
            "ImageOrientationPatient must hold two orthogonal unit vectors, got lengths "
            f"{lengths[0]:.4f}, {lengths[1]:.4f} and cosine {row @ column:.4f}; export the series again",
        )


def _directions(headers: Sequence[Header]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row direction, column direction and unit normal; their means if slices differ slightly."""
    orientations = np.array([header.orientation for header in headers])
    mean = orientations[0] if (orientations == orientations[0]).all() else orientations.mean(axis=0)
    row, column = mean[:3], mean[3:]
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def slice_positions_mm(headers: Sequence[Header]) -> np.ndarray:
    """``(n,)`` position of each slice along the common normal."""
    return np.array([header.position for header in headers]) @ _directions(headers)[2]


def stack_slices(headers: Sequence[Header], min_slices: int = 3) -> Stack:
    """Put slices into spatial order and demand that they form a regular grid.

    A step may differ from the mean by 1 % (or 0.01 mm) without a warning, and by 2 % with one. The drift within the
    plane of the slices may be 0.1 % of the length of the stack.

    Args:
        headers: slices that passed :func:`check_plane_facts`.
        min_slices: fewest slices; with fewer than three, the spacing cannot be verified.

    Raises:
        CaseError: ``TOO_SMALL``, ``DUPLICATE_POSITION``, ``GAP``, ``NONUNIFORM`` or ``SHEARED``.
    """
    count = len(headers)
    if count < min_slices:
        raise CaseError(Reason.TOO_SMALL, f"a volume must have at least {min_slices} slices, got {count}")
    row, column, normal = _directions(headers)
    points = np.array([header.position for header in headers])
    along = points @ normal
    order = np.argsort(along, kind="stable")
    points, along = points[order], along[order]
    steps = np.diff(along)
    _check_steps(along, steps)
    step = (along[-1] - along[0]) / (count - 1)
    expected = along[0] + step * np.arange(count)
    error = max(np.abs(steps - step).max(), np.abs(along - expected).max())
    if error > max(SAME_POSITION_MM, 0.02 * step):
        raise CaseError(
            Reason.NONUNIFORM,
            f"slices must be evenly spaced, got steps of {steps.min():.3f} to {steps.max():.3f} mm; resample it first",
        )
    warnings: tuple[CaseError, ...] = ()
    if error > max(SAME_POSITION_MM, 0.01 * step):
        message = f"slices are evenly spaced only to within {error:.3f} mm, at a spacing of {step:.3f} mm"
        warnings = (CaseError(Reason.NONUNIFORM, message),)
    sideways = points - points[0] - np.outer(along - along[0], normal)
    drift = np.linalg.norm(sideways, axis=1).max()
    if drift > max(SAME_POSITION_MM, 1e-3 * (along[-1] - along[0])):
        raise CaseError(
            Reason.SHEARED,
            f"slices must be stacked along their normal, got a shift of up to {drift:.3f} mm; resample it first",
        )
    affine = np.eye(4)
    affine[:3, 0] = row * headers[0].spacing[1]  # type: ignore[index]
    affine[:3, 1] = column * headers[0].spacing[0]  # type: ignore[index]
    affine[:3, 2] = (points[-1] - points[0]) / (count - 1)
    affine[:3, 3] = points[0]
    return Stack(tuple(int(i) for i in order), affine, warnings)


def _check_steps(along: np.ndarray, steps: np.ndarray) -> None:
    """Demand that no two slices share a position, and that no slice is missing."""
    if steps.min() < SAME_POSITION_MM:
        where = along[int(steps.argmin())] - along[0]
        raise CaseError(
            Reason.DUPLICATE_POSITION,
            f"every position must hold one slice, got {int((steps < SAME_POSITION_MM).sum()) + 1} or more at "
            f"{where:.2f} mm from the first slice; remove the surplus",
        )
    multiples = steps / steps.min()
    whole = np.rint(multiples)
    if whole.max() >= 2 and np.abs(multiples - whole).max() < 0.1:
        k = int(whole.argmax())
        raise CaseError(
            Reason.GAP,
            f"no slice may be missing, but {int((whole - 1).sum())} are: {steps[k] - steps.min():.2f} mm from "
            f"{along[k] - along[0] + steps.min():.2f} mm behind the first slice; send the series again",
        )
