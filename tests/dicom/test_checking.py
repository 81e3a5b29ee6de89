# SPDX-License-Identifier: Apache-2.0
"""The checker finds each fault that was put in, and nothing in a sound series."""

import numpy as np
import pydicom
import pytest
from scripts.dicom.checking import check_series
from scripts.dicom.discovery import discover
from scripts.dicom.reading import read_series
from scripts.dicom.writing import write_series
from scripts.geometry import SliceGrid

from tests.dicom.test_writing import case, provenance, ramp_series, write_source  # noqa: F401


def shift(ds, mm):
    position = np.asarray(ds.ImagePositionPatient, dtype=float) + [0, 0, mm]
    ds.ImagePositionPatient = [f"{v:.8g}" for v in position]


FAULTS = {
    "ImageType must begin": lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M"]),
    "positions along the normal must all differ": lambda k, ds: setattr(ds, "ImagePositionPatient", ["0", "0", "0"]),
    "positions along the normal must be uniform": lambda k, ds: shift(ds, 0.4 if k == 20 else 0),
    "positions must lie along the normal": lambda k, ds: setattr(
        ds,
        "ImagePositionPatient",
        [f"{float(v) + (0.2 * k if i == 0 else 0):.8g}" for i, v in enumerate(ds.ImagePositionPatient)],
    ),
    "SpacingBetweenSlices must equal the step": lambda k, ds: setattr(ds, "SpacingBetweenSlices", "99"),
    "SliceThickness must be > 0": lambda k, ds: setattr(ds, "SliceThickness", "-1"),
    "DerivationDescription must be there": lambda k, ds: delattr(ds, "DerivationDescription"),
    "SourceImageSequence must refer to slices of the source": lambda k, ds: setattr(
        ds.SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3"
    ),
    "PatientID must be the source's": lambda k, ds: setattr(ds, "PatientID", "someone else"),
    "PatientName must be one value": lambda k, ds: setattr(ds, "PatientName", f"x{k // 30}"),
    "FrameOfReferenceUID must be the source's": lambda k, ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"),
    "SOPInstanceUID must be unique": lambda k, ds: setattr(ds, "SOPInstanceUID", "1.2.3"),
    "WindowWidth must be one value": lambda k, ds: setattr(ds, "WindowWidth", str(100 + k)),
    "LargestImagePixelValue must be that of the pixels": lambda k, ds: setattr(ds, "LargestImagePixelValue", 1),
    "private attributes must be absent": lambda k, ds: ds.private_block(0x11, "V", create=True).add_new(1, "LO", "x"),
    "InstanceNumber must count": lambda k, ds: setattr(ds, "InstanceNumber", 100 - k),
    "the slab must have the source's centre": lambda k, ds: shift(ds, 2.0),
    "affine must be the expected one": lambda k, ds: shift(ds, 0.01),
    "voxels must be the expected ones": lambda k, ds: setattr(ds, "PixelData", bytes(len(ds.PixelData))),
}


@pytest.mark.parametrize("finding", FAULTS)
def test_every_fault_is_found(case, finding):  # noqa: F811
    made = case()
    for k, path in enumerate(made.written.files):
        ds = pydicom.dcmread(path)
        FAULTS[finding](k, ds)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(path)
    found = check_series(made.written.files, made.source, made.affine, made.array)
    assert any(line.startswith(finding) for line in found), found


def test_thin_slices_that_fill_the_slab_to_half_a_slice_are_sound_and_a_missing_one_is_not(tmp_path):
    """12 slices every 6 mm hold 72 mm: 46 slices of 1.55 mm fill 71.3 mm; 44 leave more than half a slice empty."""
    array, affine = ramp_series()
    source = write_source(tmp_path / "source", array, affine)
    (series,) = discover(tmp_path / "source").series
    volume = read_series(series)
    count, spacing = volume.array.shape[2], np.linalg.norm(volume.affine_ras[:, 2])
    factor = spacing / 1.55
    grid = SliceGrid.over_slab(count, factor)
    made = volume.array[..., grid.nearest_slices]
    thin = grid.thin_affine(volume.affine_ras, 2)
    assert abs(len(grid.positions) * 1.55 - count * spacing) > 0.02  # more than positions may differ
    files = write_series(tmp_path / "whole", made, thin, series, provenance(), factor).files
    assert check_series(files, source, thin, made) == []
    thin[:3, 3] += thin[:3, 2]
    files = write_series(tmp_path / "less", made[..., 1:-1], thin, series, provenance(), factor).files
    assert any(line.startswith("the slab must be as wide") for line in check_series(files, source))


def test_an_empty_series_is_a_finding():
    assert check_series([]) == ["a series must have files, got none"]
