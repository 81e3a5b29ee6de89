# SPDX-License-Identifier: Apache-2.0
"""Which pairs are found in what a batch leaves, in two folders, in two files."""

import json
import shutil

import numpy as np
import pytest

from tests.conftest import make_affine, save_nifti, smooth_volume
from tests.dicom.synthetic import write_series
from tests.viewer.conftest import write_pair
from thinslice.viewer.cases import ViewerError, cases_in_output, find_viewer_cases

AFFINE = make_affine([1, 1, 1])
# the part of a batch's record that is read
RECORD = {
    "series": "a1", "n_slices_in": 6, "n_slices_out": 24,
    "geometry_before": {"spacing_mm": [1, 1, 4.0], "thick_axis": 2, "slice_thickness_mm": 3.5},
    "geometry_after": {"spacing_mm": [1, 1, 1.015625], "thick_axis": 2},
}  # fmt: skip


@pytest.fixture
def thin():
    return smooth_volume((12, 14, 24))


def test_a_batch_of_series_in_folders_of_their_own(tmp_path, thin):
    for name in ("b0", "a1"):
        write_pair(tmp_path / name, name, thin, AFFINE)
    (tmp_path / "a1" / "record.json").write_text(json.dumps(RECORD))
    first, second = find_viewer_cases(tmp_path, None, tmp_path / "scratch")
    assert [first.name, second.name] == ["a1", "b0"]
    assert first.map == tmp_path / "a1" / "a1_disagreement.nii.gz"
    assert first.stack().slice_thickness_mm == 3.5
    assert first.summary == "6 → 24 slices, 4 → 1.02 mm"
    assert (second.stack().slice_thickness_mm, second.summary) == (None, "")
    assert first.verdict()["summary"].startswith("The self-check expects")


def test_the_error_map_comes_before_the_disagreement(tmp_path, thin):
    write_pair(tmp_path, "a", thin, AFFINE)
    save_nifti(tmp_path / "a_error.nii.gz", thin, AFFINE)
    (case,) = cases_in_output(tmp_path)
    assert case.map == tmp_path / "a_error.nii.gz"
    assert "90 % of the voxels" in case.map_label()
    case.map.unlink()
    assert cases_in_output(tmp_path)[0].map_label().startswith("disagreement")


def test_only_a_name_that_a_batch_made_may_leave_the_machine(tmp_path, thin):
    write_pair(tmp_path / "a1", "a1", thin, AFFINE)
    write_pair(tmp_path / "jane", "jane_doe", thin, AFFINE)
    for folder in ("a1", "jane"):
        (tmp_path / folder / "record.json").write_text(json.dumps(RECORD))
    assert [case.export_name for case in cases_in_output(tmp_path)] == ["a1", "case"]


@pytest.mark.parametrize("record", ["{", "[]", '{"series": "a1"}', '{"series": "a1", "geometry_before": 3}'])
def test_a_damaged_record_hides_no_series(tmp_path, thin, record):
    write_pair(tmp_path, "a1", thin, AFFINE)
    (tmp_path / "record.json").write_text(record)
    (case,) = cases_in_output(tmp_path)
    assert (case.export_name, case.slice_thickness_mm) == ("case", None)


def test_links_out_of_the_folder_are_not_followed(tmp_path, thin):
    write_pair(tmp_path / "secret", "a", thin, AFFINE)
    out = tmp_path / "out"
    out.mkdir()
    for file in (tmp_path / "secret").iterdir():
        (out / file.name).symlink_to(file)
    (out / "sub").symlink_to(tmp_path / "secret")
    assert cases_in_output(out) == []


def test_half_written_files_are_not_results(tmp_path, thin):
    write_pair(tmp_path, "a", thin, AFFINE)
    for postfix in ("sr", "acquired"):
        shutil.move(tmp_path / f"a_{postfix}.nii.gz", tmp_path / f".part-a_{postfix}.nii.gz")
    assert cases_in_output(tmp_path) == []


def test_scans_and_results_in_two_folders(tmp_path, thin):
    acquired, result = write_pair(tmp_path / "made", "a", thin, AFFINE)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    acquired.rename(tmp_path / "in" / "a.nii.gz")
    result.rename(tmp_path / "out" / "a_sr.nii.gz")
    (case,) = find_viewer_cases(tmp_path / "in", tmp_path / "out", tmp_path)
    assert (case.name, case.acquired, case.map) == ("a", tmp_path / "in" / "a.nii.gz", None)
    with pytest.raises(ViewerError, match="also give the scans"):
        find_viewer_cases(tmp_path / "out", None, tmp_path)


def test_a_dicom_scan_and_its_result(tmp_path, thin):
    thick = np.rint(smooth_volume((24, 20, 9))).astype(np.int32)
    affine = make_affine([1, 1.2, 5])
    write_series(tmp_path / "dicom", thick, affine, seed="one")
    result = tmp_path / "x_sr.nii.gz"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    save_nifti(result, thick, affine)
    (case,) = find_viewer_cases(tmp_path / "dicom", result, scratch)
    assert case.name == "x"
    assert case.acquired.parent == scratch
    assert case.slice_thickness_mm is not None


@pytest.mark.parametrize(("scan", "result", "message"), [
    ("nowhere", None, "must exist"), ("empty", None, "got none"), ("a_sr.nii.gz", None, "also give its result"),
    ("other.nii.gz", "a_sr.nii.gz", "must share the in-plane grid"), ("text.nii.gz", "a_sr.nii.gz", "readable NIfTI"),
])  # fmt: skip
def test_what_cannot_be_shown_is_said(tmp_path, thin, scan, result, message):
    write_pair(tmp_path, "a", thin, AFFINE)
    (tmp_path / "empty").mkdir()
    save_nifti(tmp_path / "other.nii.gz", thin, make_affine([1, 1, 4], rotate=(0, 9, 0)))
    (tmp_path / "text.nii.gz").write_text("hello")
    with pytest.raises(ViewerError, match=message):
        find_viewer_cases(tmp_path / scan, tmp_path / result if result else None, tmp_path)[0].stack()
