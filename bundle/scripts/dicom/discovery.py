# SPDX-License-Identifier: Apache-2.0
"""Which DICOM series a folder tree holds, from headers alone; every file is accounted for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..reasons import CaseError

__all__ = ["Discovered", "LeftOutFile", "RefusedSeries", "SeriesCandidate", "discover"]


@dataclass(frozen=True)
class SeriesCandidate:
    """One volume's worth of slices.

    Attributes:
        key: hashed series UID, with a suffix where a series holds several volumes; the case's name.
        files: one per slice, in order of position along the slice normal.
        patient: hashed patient identity.
    """

    key: str
    files: tuple[Path, ...]
    patient: str = ""


@dataclass(frozen=True)
class RefusedSeries:
    """A series that must not be processed."""

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
    """What a folder tree holds."""

    series: list[SeriesCandidate] = field(default_factory=list)
    refused: list[RefusedSeries] = field(default_factory=list)
    files: list[LeftOutFile] = field(default_factory=list)


def discover(root: Path, modality: str = "MR") -> Discovered:
    """Look through a folder tree."""
    found = Discovered()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        found.files.append(LeftOutFile(path, CaseError("NOT_AN_IMAGE", "not read yet")))  # type: ignore[arg-type]
    return found
