# SPDX-License-Identifier: Apache-2.0
"""Separate the stacks of one series by angle (discs of a spine) or position, and find single scout slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..reasons import CaseError, Reason
from .headers import Header, first_acquired
from .stack import SAME_POSITION_MM

__all__ = ["find_stacks"]

SAME_DIRECTION = 1e-3  # largest difference of direction cosines within one stack
ACROSS_DEGREES = 45  # stacks at a larger angle to each other are the planes of a localizer
SCOUT_DEGREES = 10  # a single slice at a larger angle is a scout; one at a smaller angle belongs to an incomplete stack
SIDEWAYS_MM = 1  # slices further apart than this within their plane belong to different stacks
JUMP = 2.5  # slices further apart than so many steps along their normal belong to different stacks


def find_stacks(headers: Sequence[Header], min_slices: int) -> tuple[list[list[Header]], list[list[Header]]]:
    """Group the slices of a series by stack.

    Args:
        headers: slices that state their geometry (see :func:`scripts.dicom.stack.check_plane`), of all echoes and
            times.
        min_slices: fewest slices of a stack.

    Returns:
        The stacks, in order of acquisition as far as their numbers show it, and the scouts: groups of too few slices
        that cross a stack and lie in separate files.

    Raises:
        CaseError: ``MIXED_ORIENTATION`` if slices have several orientations and form no stacks, or form stacks that
            cross each other, as in a localizer.
    """
    turned = [group for same_id in _by_stack_id(headers) for group in _by_direction(same_id)]
    large = [group for group in turned if _n_places(group) >= min_slices]
    small = [group for group in turned if _n_places(group) < min_slices]
    if len(turned) == 1:
        large, small = turned, []
    largest = max((_degrees(a[0], b[0]) for a in large for b in large), default=0.0)
    if largest > ACROSS_DEGREES:
        message = f"stacks of one series must not cross each other, got an angle of {largest:.0f} degrees, as in a"
        raise CaseError(Reason.MIXED_ORIENTATION, f"{message} localizer; if it is not one, split the series")
    across = [group for group in small if all(_degrees(group[0], other[0]) > SCOUT_DEGREES for other in large)]
    in_one_object = any(header.multi_frame for group in small for header in group)
    if not large or (small and in_one_object) or (len(across) < len(small) and len(large) == 1):
        spread = max(_difference(a[0], b[0]) for a in turned for b in turned)
        message = f"slices of one series must be parallel, got direction cosines that differ by {spread:.4f}; split it"
        raise CaseError(Reason.MIXED_ORIENTATION, message)
    stacks = [stack for group in large for stack in _by_place(group, min_slices)]
    stacks += [group for group in small if group not in across]
    return sorted(stacks, key=first_acquired), sorted(across, key=first_acquired)


def _normal(header: Header) -> np.ndarray:
    row, column = np.reshape(np.asarray(header.orientation, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _degrees(one: Header, other: Header) -> float:
    """Angle between the planes of two slices."""
    return float(np.degrees(np.arccos(min(1.0, abs(float(_normal(one) @ _normal(other)))))))


def _difference(one: Header, other: Header) -> float:
    """Largest difference of direction cosines."""
    return float(np.abs(np.asarray(one.orientation) - np.asarray(other.orientation)).max())


def _n_places(headers: Sequence[Header]) -> int:
    along = np.sort(np.array([header.position for header in headers]) @ _normal(headers[0]))
    return 1 + int((np.diff(along) >= SAME_POSITION_MM).sum())


def _by_stack_id(headers: Sequence[Header]) -> list[list[Header]]:
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.stack_id, []).append(header)
    return list(groups.values())


def _by_direction(headers: Sequence[Header]) -> list[list[Header]]:
    groups: list[list[Header]] = []
    known: dict[tuple[float, ...] | None, int] = {}  # most slices state exactly the same as another slice
    for header in headers:
        if header.orientation not in known:
            near = (i for i, group in enumerate(groups) if _difference(group[0], header) <= SAME_DIRECTION)
            known[header.orientation] = next(near, len(groups))
            if known[header.orientation] == len(groups):
                groups.append([])
        groups[known[header.orientation]].append(header)
    return groups


def _by_place(headers: list[Header], min_slices: int) -> list[list[Header]]:
    """Separate parallel stacks that lie beside each other, or behind each other with a distance between them.

    A jump along the normal means a missing slice, unless the images are numbered without a gap.
    """
    normal = _normal(headers[0])
    points = np.array([header.position for header in headers])
    along = points @ normal
    offsets = points - np.outer(along, normal)
    groups: list[list[Header]] = []
    left = np.ones(len(headers), dtype=bool)
    while left.any():
        beside = left & (np.linalg.norm(offsets - offsets[left.argmax()], axis=1) <= SIDEWAYS_MM)
        groups.append([headers[i] for i in np.flatnonzero(beside)])
        left &= ~beside
        if len(groups) * min_slices > len(headers):
            break
    if len(groups) > 1 and min(map(_n_places, groups)) < min_slices:
        return [headers]  # one slice out of line, or a sheared stack: a later check refuses it with its own reason
    return [stack for group in groups for stack in _by_jump(group, normal, min_slices)]


def _by_jump(headers: list[Header], normal: np.ndarray, min_slices: int) -> list[list[Header]]:
    numbers = {header.instance_number for header in headers}
    counted = {number for number in numbers if number is not None}
    if None in numbers or len(counted) < len(headers) or max(counted) - min(counted) >= len(headers):
        return [headers]
    along = np.array([header.position for header in headers]) @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    apart = steps[steps >= SAME_POSITION_MM]
    if not len(apart):
        return [headers]
    cuts = np.flatnonzero(steps > JUMP * np.median(apart)) + 1
    groups = [[headers[int(i)] for i in run] for run in np.split(order, cuts)]
    return groups if min(map(_n_places, groups)) >= min_slices else [headers]
