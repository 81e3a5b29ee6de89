# SPDX-License-Identifier: Apache-2.0
"""Find the DICOM series of a folder tree from their headers alone; every file is accounted for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..archives import is_archive, unpack_all
from ..files import sha256
from ..formats import is_volume_file
from ..reasons import CaseError, Reason
from .headers import Header, hashed, read_headers
from .kinds import IMAGE_CLASS, file_refusal, image_refusal, image_warnings, is_ours
from .split import (
    Part,
    check_covers_series,
    check_one_acquisition,
    check_one_patient,
    split_by_diffusion,
    split_by_echo,
    split_by_time,
    split_by_type,
)
from .stack import check_plane, check_plane_facts, stack_slices
from .stacks import find_stacks
from .tree import Stamp, list_tree

__all__ = [
    "DAMAGED",
    "Discovered",
    "LeftOutFile",
    "Members",
    "RefusedSeries",
    "SeriesCandidate",
    "discover",
    "look_at",
    "number_derived",
    "series_volumes",
    "sort_copies",
]

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
DAMAGED = (Reason.TRUNCATED, Reason.UNREADABLE, Reason.CHANGED)


@dataclass(frozen=True)
class SeriesCandidate:
    """The slices of one volume, with everything that was read from their headers.

    Attributes:
        key: name of the case: the first 16 hex digits of the SHA-256 of the series UID, with a suffix if the series
            holds several volumes.
        slices: in order of position along the slice normal; one file may hold several.
        copies: further files that are byte-for-byte copies of one of ``files``.
        warnings: faults that are tolerated but worth knowing.
        derived_number: SeriesNumber of the derived series; no series of the study that was acquired has it.
    """

    key: str
    slices: tuple[Header, ...]
    copies: tuple[Path, ...] = ()
    warnings: tuple[CaseError, ...] = ()
    derived_number: int = 1

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that hold the slices, in the order of the slices; each file once."""
        return tuple(dict.fromkeys(header.path for header in self.slices))

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        """Size and time of modification of each of ``files`` when its header was read."""
        return tuple({header.path: header.stamp for header in self.slices}.values())

    @property
    def patient(self) -> str:
        """Hashed patient identity."""
        return self.slices[0].patient


@dataclass(frozen=True)
class RefusedSeries:
    """A series, or one volume of it, that is refused; ``files`` includes copies."""

    key: str
    files: tuple[Path, ...]
    error: CaseError


@dataclass(frozen=True)
class LeftOutFile:
    """A file that belongs to no series."""

    path: Path
    error: CaseError


@dataclass(frozen=True)
class Discovered:
    """The contents of a folder tree: every file is in exactly one of these lists, once.

    ``nifti`` are the volumes in a single file: NIfTI and the other formats of :mod:`scripts.formats`.
    """

    series: list[SeriesCandidate] = field(default_factory=list)
    refused: list[RefusedSeries] = field(default_factory=list)
    files: list[LeftOutFile] = field(default_factory=list)
    nifti: list[Path] = field(default_factory=list)

    def all_paths(self) -> list[Path]:
        """Every path of the tree, once for each entry that holds it; volumes of one series may share files."""
        paths = {(series.key.partition("-")[0], path) for series in self.series for path in series.files}
        paths |= {(series.key.partition("-")[0], path) for series in self.refused for path in series.files}
        copies = {(series.key.partition("-")[0], path) for series in self.series for path in series.copies}
        shared = [path for _, path in paths | copies]
        return sorted([*shared, *(file.path for file in self.files), *self.nifti])


def discover(
    root: Path,
    modality: str = "MR",
    stable_seconds: float = 0,
    strict: bool = False,
    min_slices: int = 3,
    max_voxels: int = 2**30,
    unpack_into: Path | None = None,
) -> Discovered:
    """Find every DICOM series below a folder.

    The slices of one series are separated into volumes by image type, stack, echo, diffusion weighting and time point.
    If they differ in anything else that matters, the series is refused.

    Args:
        root: the folder; slices of one series are put together whatever their folders and names.
        modality: ``MR`` or ``CT``.
        stable_seconds: look at sizes and times twice, so many seconds apart, and refuse files that changed (a series
            that is still being received).
        strict: refuse a series, rather than warn, if its own counts say that slices are missing at its ends.
        min_slices: the fewest slices that a volume may have.
        max_voxels: the most voxels that a volume may have.
        unpack_into: an empty folder of the caller's, into which zip and tar archives of the tree are unpacked; their
            contents belong to the tree. ``None`` leaves archives out. Archives inside archives are left out.

    Returns:
        Volumes that can be read, series that are refused, and the files that belong to no series.

    Raises:
        ValueError: if ``modality`` is unknown.
    """
    if modality not in IMAGE_CLASS:
        raise ValueError(f"modality must be one of {sorted(IMAGE_CLASS)}, got {modality!r}; correct the id")
    files, others = list_tree(Path(root), stable_seconds)
    found = Discovered(files=[LeftOutFile(path, error) for path, error in others])
    if unpack_into is not None:
        archives = [path for path, (_, changed) in files.items() if is_archive(path) and changed is None]
        for path, outcome in unpack_all(archives, Path(root), unpack_into).items():
            del files[path]
            found.files.append(LeftOutFile(path, outcome))
        files |= list_tree(unpack_into)[0]
    series: dict[str, list[list[Header]]] = {}
    damaged: list[LeftOutFile] = []
    for path, (stamp, changed) in files.items():
        if is_volume_file(path):
            found.nifti.append(path)
            continue
        looked = look_at(path, stamp, changed, modality)
        if isinstance(looked, LeftOutFile):
            (damaged if looked.error.reason in DAMAGED else found.files).append(looked)
        else:
            series.setdefault(looked[0].series, []).append(looked)
    members = {uid: sort_copies(each) for uid, each in series.items()}
    shared = _in_several_series(series)
    orphans, suspects = _whose(damaged, {uid: each.headers for uid, each in members.items()})
    found.files.extend(file for file in damaged if file.path not in orphans)
    for uid, each in members.items():
        own = [file for file in damaged if orphans.get(file.path) == uid]
        outcomes = series_volumes(each, own, uid in suspects, shared, strict, min_slices, max_voxels)
        found.series.extend(one for one in outcomes if isinstance(one, SeriesCandidate))
        found.refused.extend(one for one in outcomes if isinstance(one, RefusedSeries))
    taken: dict[str, set[int]] = {}
    for each in members.values():
        if not is_ours(each.headers[0]):
            taken.setdefault(each.headers[0].study, set()).add(each.headers[0].series_number or 0)
    found.series[:] = number_derived(sorted(found.series, key=lambda one: one.key), taken)
    found.refused.sort(key=lambda one: one.key)
    found.files.sort(key=lambda one: one.path)
    return found


def look_at(path: Path, stamp: Stamp, changed: CaseError | None, modality: str) -> list[Header] | LeftOutFile:
    """Read one file of a tree.

    Args:
        path: a regular file.
        stamp: its size and time of modification when the tree was listed.
        changed: why the file already counts as changed, or ``None``.
        modality: ``MR`` or ``CT``.

    Returns:
        The headers of its slices; their ``error`` says why the file cannot be used, if so. If the series of the file is
        not known, the reason for that: with one of :data:`DAMAGED`, the file may nevertheless belong to a series.
    """
    try:
        headers = read_headers(path)
    except CaseError as error:
        return LeftOutFile(path, changed or _better_known(path, error))
    header = headers[0]
    if changed is None and header.stamp != stamp:
        changed = CaseError(Reason.CHANGED, "a file must stay as it is while it is read; run again later")
    if error_of_file := file_refusal(header, modality):
        return LeftOutFile(path, error_of_file)
    fault = changed or header.error
    if not header.series and fault is not None:
        return LeftOutFile(path, fault)
    return [replace(one, error=changed) for one in headers] if changed else headers


def _better_known(path: Path, error: CaseError) -> CaseError:
    """A better reason for a file that is not DICOM, if its name tells what it is."""
    if error.reason is not Reason.NOT_AN_IMAGE:
        return error
    name = path.name.lower()
    if name.startswith("._"):
        message = "an input must be an image, got a file in which macOS keeps attributes of another; nothing to do"
        return CaseError(Reason.NOT_AN_IMAGE, message)
    if name.endswith(".img") and is_volume_file(path.with_suffix(".hdr")):
        return CaseError(Reason.NOT_AN_IMAGE, "an .img file is read together with its .hdr file; nothing to do")
    if name.endswith(ARCHIVES):
        return CaseError(Reason.ARCHIVE, "an archive of this kind or in this place is not unpacked; unpack it first")
    return error


@dataclass(frozen=True)
class Members:
    """The files of one series UID.

    Attributes:
        unique: slices of each file, without byte-for-byte copies.
        copies: the copies of each of them.
        conflicts: instance UIDs that name different files.
    """

    unique: list[list[Header]]
    copies: dict[Path, list[Path]]
    conflicts: set[str]

    @property
    def headers(self) -> list[Header]:
        """The slices of all files."""
        return [header for headers in self.unique for header in headers]


def series_volumes(
    members: Members,
    own: Sequence[LeftOutFile],
    beside_damage: bool,
    shared: Collection[str],
    strict: bool,
    min_slices: int,
    max_voxels: int,
) -> list[SeriesCandidate | RefusedSeries]:
    """The volumes of one series, or the reasons why it has none.

    Args:
        members: its files.
        own: damaged files that can belong to no other series.
        beside_damage: whether one of its slices may be among the damaged files whose series is unknown.
        shared: instance UIDs that files of other series also have.
        strict: see :func:`discover`.
        min_slices: see :func:`discover`.
        max_voxels: see :func:`discover`.
    """
    headers, copies = members.headers, members.copies
    key = hashed(headers[0].series)
    extra = [*(copy for path in _paths(headers) for copy in copies.get(path, ())), *(file.path for file in own)]
    try:
        if any(header.sop_instance in members.conflicts or header.sop_instance in shared for header in headers):
            message = "files of one SOPInstanceUID must be equal, got several that differ; keep one version"
            raise CaseError(Reason.UID_CONFLICT, message)
        _check_series(headers)
        if own:
            raise CaseError(own[0].error.reason, f"{own[0].error.message} (it lies among the slices of this series)")
        warnings = _count_warnings(headers, beside_damage)
        if strict and warnings:
            raise warnings[0]
    except CaseError as error:
        return [RefusedSeries(key, _paths(headers, extra), error)]
    outcomes: list[SeriesCandidate | RefusedSeries] = []
    for outcome in _volumes(key, headers, min_slices, max_voxels):
        twins = tuple(copy for path in outcome.files for copy in copies.get(path, ()))
        if isinstance(outcome, RefusedSeries):
            outcomes.append(replace(outcome, files=tuple(sorted((*outcome.files, *twins)))))
        else:
            outcomes.append(replace(outcome, copies=twins, warnings=(*outcome.warnings, *warnings)))
    return outcomes


def _in_several_series(series: Mapping[str, Sequence[Sequence[Header]]]) -> set[str]:
    """Instance UIDs that occur in more than one series."""
    seen: dict[str, str] = {}
    return {
        headers[0].sop_instance
        for uid, files in series.items()
        for headers in files
        if headers[0].sop_instance and seen.setdefault(headers[0].sop_instance, uid) != uid
    }


def _whose(damaged: Sequence[LeftOutFile], series: dict[str, list[Header]]) -> tuple[dict[Path, str], set[str]]:
    """Assign damaged files to series.

    A damaged slice that does not even state its series must not silently disappear from it. If there is only one
    series in its folder, the file is taken to belong to it. Otherwise its series is unknown.

    Returns:
        The series UID of each damaged file for which it is known, and the series that the other files may belong to.
    """
    by_folder: dict[Path, set[str]] = {}
    for uid, headers in series.items():
        for header in headers:
            by_folder.setdefault(header.path.parent, set()).add(uid)
    owners: dict[Path, str] = {}
    suspects: set[str] = set()
    for file in damaged:
        beside = by_folder.get(file.path.parent, set())
        if len(beside) == 1:
            owners[file.path] = min(beside)
        else:
            suspects |= beside
    return owners, suspects


def _paths(headers: Iterable[Header], copies: Iterable[Path] = ()) -> tuple[Path, ...]:
    return tuple(sorted({*(header.path for header in headers), *copies}))


def number_derived(candidates: Iterable[SeriesCandidate], taken: Mapping[str, set[int]]) -> Iterator[SeriesCandidate]:
    """Give each derived series a number: 100 times the source's plus 1, or the next number that is free in its study.

    The UIDs of the derived series are hashed from this number, among other facts. So ``taken`` leaves out series that
    were derived earlier: a source must get the same number again even if its earlier result lies in the same tree.

    Args:
        candidates: volumes of any studies, in the order of their keys.
        taken: hash of a study's UID to the numbers of its series, without series that this bundle derived.

    Yields:
        The candidates in the same order.
    """
    used = {study: set(numbers) for study, numbers in taken.items()}
    for candidate in candidates:
        first = candidate.slices[0]
        number = (first.series_number or 0) % 10**6 * 100 + 1
        while number in used.setdefault(first.study, set()):
            number += 1
        used[first.study].add(number)
        yield replace(candidate, derived_number=number)


def sort_copies(files: Sequence[list[Header]]) -> Members:
    """Find byte-for-byte copies among the files of a series; only files with equal instance UIDs are read."""
    by_instance: dict[str, list[list[Header]]] = {}
    for headers in files:
        by_instance.setdefault(headers[0].sop_instance or f"none: {headers[0].path}", []).append(headers)
    members = Members([], {}, set())
    for uid, same in by_instance.items():
        digests: dict[str, list[Header]] = {}
        for headers in same:
            digest = _digest(headers[0]) if len(same) > 1 else ""
            if digest in digests:
                members.copies.setdefault(digests[digest][0].path, []).append(headers[0].path)
            else:
                digests[digest] = headers
        members.unique.extend(digests.values())
        if len(digests) > 1:
            members.conflicts.add(uid)
    return members


def _digest(header: Header) -> str:
    """SHA-256 of the file. If it cannot be read, its path, which equals no other digest."""
    try:
        return sha256(header.path)
    except OSError:
        return str(header.path)


def _check_series(headers: Sequence[Header]) -> None:
    """Demand what must hold for a series as a whole.

    Raises:
        CaseError: with the reason.
    """
    if changed := [h.error for h in headers if h.error is not None and h.error.reason is Reason.CHANGED]:
        raise changed[0]
    check_one_patient([header for header in headers if header.pixels is not None])  # a cut header may lack them
    if errors := [header.error for header in headers if header.error is not None]:
        what = f"{errors[0].message} ({len(errors)} of {len(headers)} images)"
        raise CaseError(errors[0].reason, what)


def _count_warnings(headers: Sequence[Header], beside_damage: bool) -> tuple[CaseError, ...]:
    """Warnings that slices may be missing at the ends, which their positions cannot show."""
    warnings = []
    if any(header.multi_frame for header in headers):
        return ()  # its number of frames is checked elsewhere, and its instance numbers count files
    count = len(headers)
    stated = max((header.images_in_acquisition or 0 for header in headers), default=0)
    if stated > count:
        warnings.append(f"its header says {stated} images")
    numbers = {header.instance_number for header in headers if header.instance_number is not None}
    if numbers and len(numbers) == count and max(numbers) - min(numbers) >= count:
        warnings.append(f"its images are numbered from {min(numbers)} to {max(numbers)}")
    if beside_damage:
        warnings.append("a damaged file beside it may be one of its slices")
    return tuple(
        CaseError(Reason.COUNT_MISMATCH, f"a series should be complete, got {count} images, but {why}; send it again")
        for why in warnings
    )


def _volumes(
    key: str, headers: Sequence[Header], min_slices: int, max_voxels: int
) -> list[SeriesCandidate | RefusedSeries]:
    """The volumes of a series, or the reasons why it has none."""
    outcomes: list[SeriesCandidate | RefusedSeries] = []

    def refuse(part: Part, error: CaseError) -> None:
        outcomes.append(RefusedSeries(key + part.suffix, _paths(part.headers), error))

    images = []
    for part in split_by_type(Part(tuple(headers))):
        if error := image_refusal(part.headers[0]):
            refuse(part, error)
        else:
            images.append(part)
    if not images:
        return outcomes
    everything = [header for part in images for header in part.headers]
    try:
        for header in everything:
            check_plane(header)
        stacks, scouts = find_stacks(everything, min_slices)
        for stack in stacks:
            check_plane_facts(stack)
    except CaseError as error:
        for part in images:
            refuse(part, error)
        return outcomes
    for i, scout in enumerate(scouts):
        message = "a slice that crosses the others is a scout and is left out; nothing to do"
        refuse(Part(tuple(scout), f"-scout{i + 1}"), CaseError(Reason.LOCALIZER, message))
    for i, stack in enumerate(stacks):
        suffix = f"-stack{i + 1}" if len(stacks) > 1 else ""
        members = set(map(id, stack))
        for outcome in _volumes_of_stack(images, members, suffix, min_slices, max_voxels):
            outcomes.append(replace(outcome, key=key + outcome.key))
    return outcomes


def _volumes_of_stack(
    images: Sequence[Part], members: set[int], suffix: str, min_slices: int, max_voxels: int
) -> list[SeriesCandidate | RefusedSeries]:
    """The volumes of one stack; their keys are only the suffixes.

    Args:
        images: parts of the series by image type.
        members: ``id`` of the headers that belong to the stack.
        suffix: that the key of this stack has.
        min_slices: see :func:`discover`.
        max_voxels: see :func:`discover`.
    """
    outcomes: list[SeriesCandidate | RefusedSeries] = []

    def refuse(part: Part, error: CaseError) -> None:
        outcomes.append(RefusedSeries(part.suffix, _paths(part.headers), error))

    parts = [Part(tuple(h for h in image.headers if id(h) in members), image.suffix + suffix) for image in images]
    volumes = []
    for echo in (echo for part in parts if part.headers for echo in split_by_echo(part)):
        for weighting in split_by_diffusion(echo):
            try:
                volumes.extend(split_by_time(weighting))
            except CaseError as error:
                refuse(weighting, error)
    incomplete = check_covers_series(volumes)
    for part in volumes:
        try:
            voxels = part.headers[0].rows * part.headers[0].columns * len(part.headers)
            if voxels > max_voxels:
                raise CaseError(Reason.TOO_LARGE, f"a volume must have at most {max_voxels} voxels, got {voxels}")
            check_one_acquisition(part)
            stack = stack_slices(part.headers, min_slices)
            if part.suffix in incomplete:
                raise incomplete[part.suffix]
        except CaseError as error:
            refuse(part, error)
            continue
        ordered = tuple(part.headers[i] for i in stack.order)
        warnings = (*stack.warnings, *image_warnings(ordered[0]))
        outcomes.append(SeriesCandidate(part.suffix, ordered, warnings=warnings))
    return outcomes
