# SPDX-License-Identifier: Apache-2.0
"""One folder of anything: NIfTI files and DICOM series side by side."""

from __future__ import annotations

import hashlib

import numpy as np
import pydicom
import pytest
from scripts.data.cases import find_cases, read_case
from scripts.reasons import CaseError, Reason

from tests.conftest import save_nifti
from tests.dicom.synthetic import drop, ramp_series, write_series

ARRAY, AFFINE = ramp_series()


@pytest.fixture
def folder(tmp_path):
    """Two NIfTI files of one name in two folders, one of another, a good and a bad MR series, a CT series, a text."""
    root = tmp_path / "in"
    for name in ("a/scan.nii.gz", "b/scan.nii", "b/other.nii.gz"):
        save_nifti(root / name, ARRAY.astype(np.int16), AFFINE)
    write_series(root / "good", ARRAY, AFFINE, seed="good")
    write_series(root / "bad", ARRAY, AFFINE, seed="bad", edit=drop(4))
    write_series(root / "ct", ARRAY, AFFINE, seed="ct", modality="CT")
    (root / "notes.txt").write_text("text")
    return root


def test_everything_in_a_folder_is_found_or_explained(folder):
    cases = find_cases(folder)
    uid = pydicom.dcmread(next((folder / "good").iterdir())).SeriesInstanceUID
    key = hashlib.sha256(uid.encode()).hexdigest()[:16]
    assert [item["case"] for item in cases.items] == ["a/scan", "b/other", "b/scan", key]
    assert {error.reason for _, error in cases.refused} == {Reason.GAP}
    assert [error.reason for _, error in cases.skipped].count(Reason.NOT_MR) == ARRAY.shape[2]
    assert [name for name, error in cases.skipped if error.reason is Reason.NOT_AN_IMAGE] == ["notes.txt"]


def test_both_formats_give_the_same_volume(folder):
    nifti, dicom = (read_case(item["image"]) for item in find_cases(folder).items[-2:])
    assert nifti[0] == "scan"
    np.testing.assert_array_equal(nifti[1].array, dicom[1].array)
    np.testing.assert_allclose(nifti[1].affine_ras, dicom[1].affine_ras, atol=1e-4)


def test_ct_series_are_cases_where_ct_is_wanted(folder):
    items = [item for item in find_cases(folder, "CT").items if not isinstance(item["image"], str)]
    assert len(items) == 1
    np.testing.assert_array_equal(read_case(items[0]["image"])[1].array, ARRAY - 1024)


def test_series_of_one_patient_share_it_and_those_of_others_do_not(tmp_path):
    """So that a split by patient never parts them; the identifier itself does not show."""
    for seed, patient in (("a", "JANE-DOE"), ("b", "JANE-DOE"), ("c", "JOHN")):
        write_series(tmp_path / seed, ARRAY, AFFINE, seed=seed, PatientID=patient)
    patients = [str(item["patient"]) for item in find_cases(tmp_path).items]
    assert sorted(patients.count(patient) for patient in patients) == [1, 2, 2]
    assert "JANE" not in "".join(patients)


def test_a_folder_of_one_series_is_read_by_its_path(folder):
    np.testing.assert_array_equal(read_case(folder / "good")[1].array, ARRAY)
    with pytest.raises(CaseError) as caught:
        read_case(folder / "bad")
    assert caught.value.reason == Reason.GAP
    write_series(folder / "good", ARRAY, AFFINE, seed="second", name="second{}")
    with pytest.raises(CaseError, match="exactly one") as caught:
        read_case(folder / "good")
    assert caught.value.reason == Reason.UNREADABLE


def test_nothing_there(tmp_path):
    cases = find_cases(tmp_path / "nowhere")
    assert not cases.items
    with pytest.raises(CaseError, match="must exist"):
        read_case(tmp_path / "nowhere")
