# SPDX-License-Identifier: Apache-2.0
"""Separate the volumes of one series by image type, echo, diffusion weighting and time point.

:mod:`scripts.dicom.stacks` has separated stacks of different angle or position before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..reasons import CaseError, Reason
from .headers import ACQUISITION, Header, first_acquired
from .stack import SAME_POSITION_MM, slice_positions_mm

__all__ = [
    "Part",
    "check_covers_series",
    "check_one_acquisition",
    "check_one_patient",
    "split_by_diffusion",
    "split_by_echo",
    "split_by_time",
    "split_by_type",
]


SAME_DIRECTION = 2e-3  # largest difference between the components that slices state for one gradient
MOMENTS = ("TriggerTime", "AcquisitionDateTime", "AcquisitionTime")


@dataclass(frozen=True)
class Part:
    """Slices of one volume.

    Attributes:
        headers: the slices, in no order.
        suffix: what distinguishes it from the other parts of its series, such as ``-type1-echo2``.
    """

    headers: tuple[Header, ...]
    suffix: str = ""


def split_by_type(part: Part) -> list[Part]:
    """One part per image type, and per phase, real or imaginary component."""
    return _split(part, "type", lambda header: (header.image_type, header.component))


def split_by_echo(part: Part) -> list[Part]:
    """One part per echo, by its number and its time in ms. Times that differ by less than 0.1 % are the same."""
    times = sorted({header.echo_time for header in part.headers if header.echo_time is not None})
    cluster: dict[float | None, int] = {None: -1}
    for i, time in enumerate(times):
        same = i > 0 and time - times[i - 1] <= 1e-3 * abs(time)
        cluster[time] = cluster[times[i - 1]] if same else i
    return _split(part, "echo", lambda header: (_sortable(header.echo_number), cluster[header.echo_time]))


def split_by_diffusion(part: Part) -> list[Part]:
    """One part per b-value in s/mm2, which names it, and per gradient direction, numbered in order of acquisition."""
    weightings: list[tuple[int | None, tuple[float, ...] | None]] = []
    groups: list[list[Header]] = []
    known: dict[tuple, int] = {}  # most slices state exactly the same as another slice
    for header in part.headers:
        b_value = None if header.b_value is None else round(header.b_value)
        said = b_value, header.gradient
        if said not in known:
            near = (i for i, one in enumerate(weightings) if one[0] == b_value and _same_direction(one[1], said[1]))
            known[said] = next(near, len(groups))
            if known[said] == len(groups):
                weightings.append(said)
                groups.append([])
        groups[known[said]].append(header)
    if len(groups) == 1:
        return [part]
    parts = []
    for b_value in sorted({weighting[0] for weighting in weightings}, key=lambda b: -1 if b is None else b):
        same = [group for weighting, group in zip(weightings, groups, strict=True) if weighting[0] == b_value]
        same.sort(key=first_acquired)
        width = len(str(len(same)))
        for i, group in enumerate(same):
            direction = "" if len(same) == 1 else f"-direction{i + 1:0{width}d}"
            stated = "none" if b_value is None else b_value
            parts.append(Part(tuple(group), f"{part.suffix}-b{stated}{direction}"))
    return parts


def _same_direction(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= SAME_DIRECTION


def split_by_time(part: Part) -> list[Part]:
    """One part per time point or phase.

    The rules are tried in this order. TemporalPositionIdentifier always counts. Acquisition numbers and times count
    only if several slices share a position and if they separate the slices into volumes that hold every position
    once, because scanners also change them within one volume. If each position has its own times (cardiac phases,
    interleaved slices), their order at each position counts. The last rule is for instance numbers that run through
    all positions again and again.

    Raises:
        CaseError: ``TIME_SERIES`` if the volumes of a series cannot be separated, ``DUPLICATE_POSITION`` if nothing
            indicates that there are several.
    """
    parts = _split(part, "time", lambda header: _sortable(header.temporal_position))
    if len(parts) > 1:
        return parts
    places = _places(part.headers)
    per_place = Counter(places)
    if max(per_place.values()) == 1:
        return [part]
    even = len(set(per_place.values())) == 1
    for keyword in part.headers[0].times if even else ():
        for order in (_by_value, _by_rank, _by_run):
            if (numbers := order(part.headers, places, keyword)) is not None:
                number = dict(zip(map(id, part.headers), numbers, strict=True))
                return _split(part, "time", lambda header, number=number: (number[id(header)],))  # type: ignore[misc]
    told_apart = {
        (place, header.b_value, *header.times.values(), *header.volume_facts)
        for place, header in zip(places, part.headers, strict=True)
    }
    if even and len(told_apart) > len(per_place):
        raise CaseError(
            Reason.TIME_SERIES,
            "several measurements in one series must differ in echo, diffusion weighting or time, but "
            f"{max(per_place.values())} share each position; split the series",
        )
    raise CaseError(
        Reason.DUPLICATE_POSITION,
        f"every position must hold one slice, got up to {max(per_place.values())}; remove the surplus",
    )


def _by_value(headers: Sequence[Header], places: Sequence[int], keyword: str) -> list[int] | None:
    """Number of the time point of each slice, if each value occurs once at every position; else ``None``."""
    values = [_sortable(header.times[keyword]) for header in headers]
    each_once = len(set(zip(values, places, strict=True))) == len(places)
    if not each_once or len(set(values)) * len(set(places)) != len(places):
        return None
    number = {value: i for i, value in enumerate(sorted(set(values)))}
    return [number[value] for value in values]


def _by_rank(headers: Sequence[Header], places: Sequence[int], keyword: str) -> list[int] | None:
    """The same for times that differ between positions: the rank of each slice among those of its position."""
    if keyword not in MOMENTS:
        return None
    values = [_sortable(header.times[keyword]) for header in headers]
    if any(value[0] == np.inf for value in values) or len(set(zip(values, places, strict=True))) < len(places):
        return None
    at_place: dict[int, list] = {}
    for value, place in zip(values, places, strict=True):
        at_place.setdefault(place, []).append(value)
    ranks = {place: {value: i for i, value in enumerate(sorted(found))} for place, found in at_place.items()}
    return [ranks[place][value] for value, place in zip(values, places, strict=True)]


def _by_run(headers: Sequence[Header], places: Sequence[int], keyword: str) -> list[int] | None:
    """The same for instance numbers that run through all positions in one order, again and again."""
    values = [_sortable(header.times[keyword]) for header in headers]
    if keyword != "InstanceNumber" or len(set(values)) < len(values) or max(values)[0] == np.inf:
        return None
    order = sorted(range(len(values)), key=lambda i: values[i])
    size = len(set(places))
    runs = [[places[i] for i in order[start : start + size]] for start in range(0, len(order), size)]
    if len(set(runs[0])) < size or any(run != runs[0] for run in runs):
        return None
    number = {i: at // size for at, i in enumerate(order)}
    return [number[i] for i in range(len(values))]


def _split(part: Part, name: str, key: Callable[[Header], tuple]) -> list[Part]:
    groups: dict[tuple, list[Header]] = {}
    for header in part.headers:
        groups.setdefault(key(header), []).append(header)
    if len(groups) == 1:
        return [part]
    width = len(str(len(groups)))
    ordered = [groups[value] for value in sorted(groups)]
    return [Part(tuple(group), f"{part.suffix}-{name}{i + 1:0{width}d}") for i, group in enumerate(ordered)]


def _sortable(text: str) -> tuple[float, str]:
    """Sort key: numbers in numeric order, then other text."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _places(headers: Sequence[Header]) -> list[int]:
    """Index of the position of each slice among all positions."""
    along = slice_positions_mm(headers)
    order = np.argsort(along, kind="stable")
    place = np.zeros(len(along), dtype=int)
    place[order[1:]] = np.cumsum(np.diff(along[order]) >= SAME_POSITION_MM)
    return [int(i) for i in place]


def _differing_facts(headers: Iterable[Header]) -> list[str]:
    """Names of the facts that differ between slices."""
    tolerance = dict(ACQUISITION)
    names = []
    for facts in zip(*(header.volume_facts for header in headers), strict=True):
        name = facts[0][0]
        values = {value for _, value in facts}
        numbers = [value for value in values if isinstance(value, float)]
        allowed = tolerance.get(name)
        if len(values) > 1 and (
            allowed is None
            or len(numbers) < len(values)
            or max(numbers) - min(numbers) > allowed * max(abs(number) for number in numbers)
        ):
            names.append(name)
    return names


def check_one_patient(headers: Sequence[Header]) -> None:
    """Demand one patient, one study and one frame of reference.

    Raises:
        CaseError: ``MIXED_PATIENT``.
    """
    if len({header.identity for header in headers}) > 1:
        message = "slices of one series must share patient and study, got several; correct the archive"
        raise CaseError(Reason.MIXED_PATIENT, message)
    if len({header.frame_of_reference for header in headers}) > 1:
        message = "slices of one series must share a frame of reference, got several; export the series again"
        raise CaseError(Reason.MIXED_PATIENT, message)


def check_one_acquisition(part: Part) -> None:
    """Demand that the acquisition parameters of a volume are the same in all its slices.

    Raises:
        CaseError: ``MIXED_ACQUISITION``.
    """
    if names := _differing_facts(part.headers):
        message = f"slices of one volume must share their acquisition, but {', '.join(names)} differ; split the series"
        raise CaseError(Reason.MIXED_ACQUISITION, message)


def check_covers_series(parts: Sequence[Part]) -> dict[str, CaseError]:
    """Demand that the volumes of one series have the same positions.

    Returns:
        Suffix to reason for each volume that lacks positions: ``GAP`` inside it, ``COUNT_MISMATCH`` at its ends. If no
        volume is complete, the slices do not form several volumes: ``MULTI_ECHO``, ``TIME_SERIES`` or
        ``MIXED_ACQUISITION``.
    """
    if len(parts) < 2:
        return {}
    headers = [header for part in parts for header in part.headers]
    places = _places(headers)
    everywhere = set(places)
    held: dict[str, set[int]] = {}
    for part in parts:
        held[part.suffix] = {places.pop(0) for _ in part.headers}
    if not any(places == everywhere for places in held.values()):
        suffix = parts[0].suffix
        reason = (
            Reason.TIME_SERIES
            if "-time" in suffix or "-b" in suffix
            else Reason.MULTI_ECHO
            if "-echo" in suffix
            else Reason.MIXED_ACQUISITION
        )
        message = f"the {len(parts)} volumes of one series must lie at the same positions, but none has all; split it"
        return {part.suffix: CaseError(reason, message) for part in parts}
    errors = {}
    for suffix, places_held in held.items():
        lacking = everywhere - places_held
        if lacking:
            inside = min(places_held) < max(lacking) and max(places_held) > min(lacking)
            message = (
                f"a volume must have all {len(everywhere)} positions of its series, got {len(places_held)}; "
                "send the series again"
            )
            errors[suffix] = CaseError(Reason.GAP if inside else Reason.COUNT_MISMATCH, message)
    return errors
