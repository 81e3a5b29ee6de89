# SPDX-License-Identifier: Apache-2.0
"""Checks that validators do not make: whether a derived series is a sound volume and belongs to its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from ..geometry import swap_lps_ras
from .frames import slice_datasets

__all__ = ["check_series", "series_affine_ras"]

SHARED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "FrameOfReferenceUID")
CONSTANT = (
    *SHARED, "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "Rows", "Columns", "PixelSpacing",
    "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "WindowCenter", "WindowWidth", "ImageType",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "RescaleSlope",
    "RescaleIntercept",
)  # fmt: skip
POSITION_TOLERANCE_MM = 1e-3
AFFINE_TOLERANCE_MM = 1e-4


def check_series(
    files: Sequence[Path],
    source_files: Sequence[Path] = (),
    affine_ras: np.ndarray | None = None,
    voxels: np.ndarray | None = None,
) -> list[str]:
    """Check a derived MR series.

    Args:
        files: of the series.
        source_files: of the series it is derived from; if there are none, the relation to the source is not checked.
        affine_ras: the expected ``(4, 4)`` affine, for example that of the NIfTI file.
        voxels: the expected values ``(columns, rows, slices)`` in scanner units; rounding is allowed for.

    Returns:
        One line per finding; an empty list for a sound series.
    """
    if not files:
        return ["a series must have files, got none"]
    slices = [dcmread(path) for path in files]
    findings: list[str] = []

    def demand(holds: bool, what: str) -> None:
        if not holds:
            findings.append(what)

    for keyword in CONSTANT:
        demand(len({str(ds.get(keyword)) for ds in slices}) == 1, f"{keyword} must be one value for all slices")
    uids = [str(ds.SOPInstanceUID) for ds in slices]
    demand(len(set(uids)) == len(uids), "SOPInstanceUID must be unique")
    demand(
        all(str(ds.file_meta.MediaStorageSOPInstanceUID) == str(ds.SOPInstanceUID) for ds in slices),
        "MediaStorageSOPInstanceUID must equal SOPInstanceUID",
    )
    demand(list(slices[0].ImageType[:2]) == ["DERIVED", "SECONDARY"], "ImageType must begin with DERIVED, SECONDARY")
    for keyword in ("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"):
        demand(all(bool(ds.get(keyword)) for ds in slices), f"{keyword} must be there")
    _check_encoding(slices, demand)
    affine = _check_positions(slices, demand)
    if affine is not None and affine_ras is not None:
        demand(
            bool(np.allclose(affine, affine_ras, atol=AFFINE_TOLERANCE_MM)),
            f"affine must be the expected one to {AFFINE_TOLERANCE_MM} mm",
        )
    if source_files:
        _check_source(slices, [dcmread(path, stop_before_pixels=True) for path in source_files], demand)
    if voxels is not None:
        ordered = sorted(slices, key=_place)
        found = np.stack([_scanner_units(ds).T for ds in ordered], axis=2)
        slope = float(slices[0].get("RescaleSlope", 1))
        expected = np.asarray(voxels, dtype=np.float64)
        demand(
            found.shape == expected.shape and bool(np.abs(found - expected).max() <= abs(slope) * 0.5 + 1e-6),
            "voxels must be the expected ones to half a step",
        )
    return findings


def series_affine_ras(slices: Sequence[Dataset]) -> np.ndarray:
    """RAS affine of slices, computed from the first and the last position along their normal.

    Args:
        slices: at least two, axes ``(columns, rows, slices)``.
    """
    ordered = sorted(slices, key=_place)
    first, last = (np.asarray(ordered[i].ImagePositionPatient, dtype=float) for i in (0, -1))
    row, column = np.reshape(np.asarray(ordered[0].ImageOrientationPatient, dtype=float), (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = row * float(ordered[0].PixelSpacing[1])
    affine[:3, 1] = column * float(ordered[0].PixelSpacing[0])
    affine[:3, 2] = (last - first) / (len(ordered) - 1)
    affine[:3, 3] = first
    return swap_lps_ras(affine)


def _normal(ds: Dataset) -> np.ndarray:
    row, column = np.reshape(np.asarray(ds.ImageOrientationPatient, dtype=float), (2, 3))
    return np.cross(row, column)


def _place(ds: Dataset) -> float:
    return float(np.asarray(ds.ImagePositionPatient, dtype=float) @ _normal(ds))


def _scanner_units(ds: FileDataset) -> np.ndarray:
    return ds.pixel_array.astype(np.float64) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))


def _check_encoding(slices: Sequence[FileDataset], demand: Callable[[bool, str], None]) -> None:
    demand(all(not any(e.tag.is_private for e in ds.iterall()) for ds in slices), "private attributes must be absent")
    demand(all(ds.preamble == b"\0" * 128 for ds in slices), "the preamble must be zero")
    long = {
        element.keyword
        for ds in slices
        for element in ds.iterall()
        if element.VR == "DS" and not element.is_empty
        for value in (element.value if element.VM > 1 else [element.value])
        if len(str(value)) > 16
    }
    demand(not long, f"decimal strings must have at most 16 characters, which {sorted(long)} do not")
    for ds in slices:
        pixels = ds.pixel_array
        for keyword, value in (("SmallestImagePixelValue", pixels.min()), ("LargestImagePixelValue", pixels.max())):
            if keyword in ds and int(ds[keyword].value) != int(value):
                demand(False, f"{keyword} must be that of the pixels, in slice {ds.get('InstanceNumber')}")
                return


def _check_positions(slices: Sequence[Dataset], demand: Callable[[bool, str], None]) -> np.ndarray | None:
    if len(slices) < 2:
        demand(False, "a series must have at least two slices")
        return None
    ordered = sorted(slices, key=_place)
    places = np.array([_place(ds) for ds in ordered])
    steps = np.diff(places)
    demand(bool((steps > POSITION_TOLERANCE_MM).all()), "positions along the normal must all differ")
    demand(float(np.ptp(steps)) < 2 * POSITION_TOLERANCE_MM, "positions along the normal must be uniform")
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        demand(float(ordered[0].get(keyword) or 0) > 0, f"{keyword} must be > 0")
    stated = float(ordered[0].get("SpacingBetweenSlices") or 0)
    demand(abs(stated - steps.mean()) < POSITION_TOLERANCE_MM, "SpacingBetweenSlices must equal the step")
    positions = np.array([ds.ImagePositionPatient for ds in ordered], dtype=float)
    line = positions[0] + np.outer(places - places[0], _normal(ordered[0]))
    demand(float(np.abs(positions - line).max()) < POSITION_TOLERANCE_MM, "positions must lie along the normal")
    demand(
        [int(ds.InstanceNumber) for ds in ordered] == list(range(1, len(ordered) + 1)),
        "InstanceNumber must count 1 to N in order of position",
    )
    return series_affine_ras(ordered)


def _check_source(slices: Sequence[Dataset], files: Sequence[Dataset], demand: Callable[[bool, str], None]) -> None:
    first = files[0]
    for keyword in SHARED:
        if keyword == "FrameOfReferenceUID" and not first.get(keyword):
            continue  # the source has none, so the writer made one
        same = str(slices[0].get(keyword) or "") == str(first.get(keyword) or "")
        demand(same, f"{keyword} must be the source's")
    known = {str(ds.SOPInstanceUID) for ds in files}
    demand(known.isdisjoint(str(ds.SOPInstanceUID) for ds in slices), "SOPInstanceUID must be new")
    demand(
        all(str(ds.SeriesInstanceUID) != str(first.SeriesInstanceUID) for ds in slices),
        "SeriesInstanceUID must be new",
    )
    demand(
        all(ds.SeriesNumber != one.get("SeriesNumber") for ds in slices for one in files), "SeriesNumber must be new"
    )
    frames: dict[str, list[int]] = {}
    for item in slices[0].get("SourceImageSequence", []):
        numbers = item.get("ReferencedFrameNumber") or []
        frames[str(item.ReferencedSOPInstanceUID)] = [numbers] if isinstance(numbers, int) else list(numbers)
    demand(bool(frames) and set(frames) <= known, "SourceImageSequence must refer to slices of the source")
    sources = [
        one
        for ds in files
        if str(ds.SOPInstanceUID) in frames
        for one, frame, _ in slice_datasets(ds)
        if frame + 1 in (frames[str(ds.SOPInstanceUID)] or [frame + 1])
    ]
    ends = [sorted(_place(ds) for ds in group) for group in (slices, sources)]
    if len(sources) > 1 and len(slices) > 1:
        extents = [(p[-1] - p[0]) * len(p) / (len(p) - 1) for p in ends]
        centres = [(p[-1] + p[0]) / 2 for p in ends]
        # a whole number of thin slices fills the slab to half a slice
        thin_mm = extents[0] / len(slices)
        demand(
            abs(extents[0] - extents[1]) < thin_mm / 2 + POSITION_TOLERANCE_MM,
            "the slab must be as wide as the source's, to half a slice",
        )
        demand(abs(centres[0] - centres[1]) < POSITION_TOLERANCE_MM, "the slab must have the source's centre")
