# SPDX-License-Identifier: Apache-2.0
"""The error map as a parametric map: the same numbers at the same places, and sound to the validators."""

import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.config import IGNORE
from scripts.dicom.discovery import discover
from scripts.dicom.error_map import write_error_map
from scripts.geometry import swap_lps_ras

from tests.dicom.synthetic import ramp_series, write_enhanced, write_series
from tests.dicom.test_writing import CANARY, derive


def derived(folder, source_folder):
    """Files of a derived series, its affine, and an error map on its grid."""
    (series,) = discover(source_folder).series
    written, array, affine = derive(series, folder)
    return written.files, affine, np.random.default_rng(0).gamma(2, 7, array.shape).astype(np.float32)


def voxels_of(path, affine_ras):
    """``(columns, rows, slices)`` of a parametric map on a known grid, each frame put where it says that it lies."""
    ds = pydicom.dcmread(path)
    frames = np.frombuffer(ds.FloatPixelData, dtype="<f4").reshape(ds.NumberOfFrames, ds.Rows, ds.Columns)
    found = np.full((ds.Columns, ds.Rows, ds.NumberOfFrames), np.nan, dtype=np.float32)
    for frame, groups in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float) * [-1, -1, 1]
        ijk = np.linalg.inv(affine_ras) @ [*position, 1]
        np.testing.assert_allclose(ijk, [0, 0, np.rint(ijk[2]), 1], atol=1e-3)
        found[:, :, round(ijk[2])] = frame.T
    return found


@pytest.fixture(params=["classic", "enhanced"])
def case(request, tmp_path):
    array, affine = ramp_series()
    if request.param == "classic":
        sources = write_series(tmp_path / "source", array, affine)
    else:
        sources = [write_enhanced(tmp_path / "source" / "x.dcm", [(array, affine, {})])]
    files, thin, error = derived(tmp_path / "derived", tmp_path / "source")
    write_error_map(tmp_path / "map.dcm", error, files, 0.9)
    return tmp_path, sources, files, thin, error


def test_two_readers_find_the_same_numbers_at_the_same_places(case):
    folder, _, _, affine, error = case
    volume = highdicom.imread(folder / "map.dcm").get_volume(apply_real_world_transform=True)
    ijk = np.indices(error.shape).reshape(3, -1)
    to_theirs = np.linalg.inv(swap_lps_ras(volume.affine)) @ affine
    theirs = to_theirs[:3, :3] @ ijk + to_theirs[:3, 3:]
    np.testing.assert_allclose(theirs, np.rint(theirs), atol=1e-3)
    np.testing.assert_array_equal(volume.array[tuple(np.rint(theirs).astype(int))], error[tuple(ijk)])
    np.testing.assert_array_equal(voxels_of(folder / "map.dcm", affine), error)


def test_it_belongs_to_the_derived_series_and_says_what_its_numbers_are(case):
    folder, sources, files, _, error = case
    ds, slices = pydicom.dcmread(folder / "map.dcm"), [pydicom.dcmread(file) for file in files]
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "ContentDate"):
        assert ds[keyword].value == slices[0][keyword].value, keyword
    assert ds.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert ds.SeriesNumber == 1_000_000_501
    assert ds.SeriesDescription == "T2 TSE SR x4 AI error map"
    by_uid = {one.SOPInstanceUID: one for one in slices}
    assert len(ds.PerFrameFunctionalGroupsSequence) == len(by_uid)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        described = by_uid.pop(reference.ReferencedSOPInstanceUID)
        assert frame.PlanePositionSequence[0].ImagePositionPatient == described.ImagePositionPatient
    referred = {
        instance.ReferencedSOPInstanceUID
        for series in ds.ReferencedSeriesSequence
        for instance in series.ReferencedInstanceSequence
    }
    acquired = {str(pydicom.dcmread(source).SOPInstanceUID) for source in sources}
    assert referred == acquired | {str(one.SOPInstanceUID) for one in slices}
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.LUTExplanation == "half-width of a 90 % interval"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == error.max()


@pytest.mark.system
def test_validators_find_no_error_alone_and_beside_both_series(case):
    folder, sources, files, _, _ = case
    found = subprocess.run(["dciodvfy", folder / "map.dcm"], capture_output=True, text=True, check=False)
    assert "Error" not in found.stdout + found.stderr, found.stderr
    together = [*map(str, sources), *map(str, files), str(folder / "map.dcm")]
    found = subprocess.run(["dcentvfy", *together], capture_output=True, text=True, check=False)
    assert not (found.stdout + found.stderr).strip()


def test_the_same_map_again_is_the_same_file(case):
    folder, _, files, _, error = case
    write_error_map(folder / "again.dcm", error, files, 0.9)
    assert (folder / "again.dcm").read_bytes() == (folder / "map.dcm").read_bytes()


def test_strange_patients_are_taken_over_and_not_talked_about(tmp_path, caplog, capsys, recwarn):
    """A library that checks names says what it finds in them; here nobody may hear it."""
    array, affine = ramp_series()

    def edit(k, ds):
        ds.add(pydicom.DataElement("PatientSex", "CS", "X", validation_mode=IGNORE))
        ds.add(pydicom.DataElement("PatientName", "PN", f"{CANARY} {CANARY}", validation_mode=IGNORE))
        ds.PatientBirthDate = ""
        return ds

    write_series(tmp_path / "source", array, affine, edit=edit)
    files, _, error = derived(tmp_path / "derived", tmp_path / "source")
    write_error_map(tmp_path / "map.dcm", error, files, None)
    ds = pydicom.dcmread(tmp_path / "map.dcm")
    assert (ds.PatientName, ds.PatientSex) == (f"{CANARY} {CANARY}", "X")
    said = capsys.readouterr()
    assert CANARY not in caplog.text + said.out + said.err + " ".join(str(w.message) for w in recwarn)
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.LUTExplanation == "expected absolute error"


def test_a_map_of_another_grid_or_with_holes_is_an_error(case):
    folder, _, files, _, error = case
    for wrong in (error[:-1], np.where(error == error.max(), np.nan, error)):
        with pytest.raises(ValueError, match="must be finite and have the shape"):
            write_error_map(folder / "wrong.dcm", wrong, files, 0.9)
    assert not (folder / "wrong.dcm").exists()
