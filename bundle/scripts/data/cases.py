# SPDX-License-Identifier: Apache-2.0
"""Find the scans in a folder, and read one of them, whatever its format."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..archives import UNPACKED, is_archive, unpack
from ..dicom.discovery import Discovered, SeriesCandidate, discover
from ..dicom.reading import read_series
from ..formats import is_volume_file, read_volume_file, volume_stem
from ..reasons import CaseError, Reason
from ..volume import Volume

__all__ = ["Cases", "find_cases", "read_case", "volume_stem"]


@dataclass(frozen=True)
class Cases:
    """The contents of a folder.

    Attributes:
        items: one dictionary per scan: ``image`` (a path or a DICOM series) and ``case`` (its name).
        refused: ``(name, error)`` of each DICOM series that is refused although it is of the right modality.
        skipped: ``(name, error)`` of each file or series of another kind.
        location: the path that was searched.
        hint: advice if nothing was found.
    """

    items: list[dict[str, object]] = field(default_factory=list)
    refused: list[tuple[str, CaseError]] = field(default_factory=list)
    skipped: list[tuple[str, CaseError]] = field(default_factory=list)
    location: str = ""
    hint: str = "put scans (NIfTI files, DICOM series) there, or correct the path"


def find_cases(location: str | Path, modality: str = "MR") -> Cases:
    """List the scans in a folder (at any depth), or the one that a path names.

    Args:
        location: a folder, a zip or tar archive, or one file of a volume (NIfTI, MGH, NRRD, MetaImage). Each such file
            is a case named by its path in the folder without the suffix (``patient01/FLAIR``), so that results mirror
            the folders; each volume of a DICOM series is a case named by its hashed UID. An archive in a folder counts
            as a folder of its name.
        modality: modality of the DICOM series to find, ``MR`` or ``CT``.

    Returns:
        The scans. A path that does not exist or holds no scan gives no items. Two files of the same name are both
        refused, because their outputs would overwrite each other.
    """
    root = Path(location)
    cases = Cases(location=str(location))
    if root.is_file() and is_volume_file(root):
        cases.items.append({"image": str(root), "case": volume_stem(root)})
        return cases
    if not root.exists():
        return cases
    place = _own_folder()
    if root.is_file() and is_archive(root):
        try:
            unpack(root, place)
        except CaseError as error:
            return Cases(refused=[(root.name, error)], location=str(location))
        return _cases(str(location), [place], discover(place, modality))
    return _cases(str(location), [root, place], discover(root, modality, unpack_into=place))


def _own_folder() -> Path:
    """Make a private temporary folder. It is removed when the process ends, because cases hold paths into it."""
    folder = tempfile.mkdtemp(prefix="scans-")  # with mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _cases(location: str, roots: Sequence[Path], found: Discovered) -> Cases:
    """Cases of the scans below the roots."""
    cases = Cases(location=location)
    by_name: dict[str, list[Path]] = {}
    for file in found.nifti:
        root = next(root for root in roots if file.is_relative_to(root))
        by_name.setdefault((file.parent.relative_to(root) / volume_stem(file)).as_posix(), []).append(file)
    for name, paths in sorted(by_name.items()):
        if len(paths) == 1:
            cases.items.append({"image": str(paths[0]), "case": name})
        else:
            message = f"a file's name must be unique in its folder, got {len(paths)} of that name; rename all but one"
            cases.refused.append((name, CaseError(Reason.DUPLICATE_NAME, message)))
    cases.items.extend({"image": series, "case": series.key, "patient": series.patient} for series in found.series)
    cases.refused.extend((series.key, series.error) for series in found.refused)
    for left_out in found.files:  # an archive that was not unpacked may hold scans
        lost = is_archive(left_out.path) and left_out.error is not UNPACKED
        (cases.refused if lost else cases.skipped).append((left_out.path.name, left_out.error))
    return cases


def read_case(source: object, modality: str = "MR") -> tuple[str, Volume]:
    """Read one scan.

    Args:
        source: path of a volume's file, a folder that holds exactly one DICOM series, or a discovered series.
        modality: of the DICOM series that is wanted in a folder, ``MR`` or ``CT``.

    Returns:
        Its name and the volume.

    Raises:
        CaseError: with the reason.
    """
    if isinstance(source, SeriesCandidate):
        return source.key, read_series(source)
    path = Path(str(source))
    if not path.exists():
        raise CaseError(Reason.UNREADABLE, f"{path.name} must exist; correct the path")
    if path.is_file():
        return volume_stem(path), read_volume_file(path)
    found = discover(path, modality)
    if not found.series and len(found.refused) == 1:
        raise found.refused[0].error
    if len(found.series) != 1:
        raise CaseError(Reason.UNREADABLE, f"{path.name} must hold exactly one DICOM series, got {len(found.series)}")
    return found.series[0].key, read_series(found.series[0])
