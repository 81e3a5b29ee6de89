# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from scripts.data.split import make_datalist

from tests.conftest import make_affine, save_nifti, smooth_volume


def folder(root, names):
    for name in names:
        save_nifti(root / f"{name}.nii.gz", np.zeros((8, 8, 5), np.int16), make_affine([1, 1, 4]))
    return str(root)


def patients(datalist, part):
    return {item["patient"] for parts in datalist.values() for item in parts[part]}


def test_two_contrasts_of_one_person_never_part(tmp_path):
    mr = folder(tmp_path / "mr", [f"sub{i:02d}_{c}" for i in range(10) for c in ("t1", "t2")])
    ct = folder(tmp_path / "ct", [f"sub{i:02d}_ct" for i in range(5, 15)])
    for seed in range(5):
        datalist = make_datalist(ct, mr, patient_regex=r"(sub\d+)", validation_fraction=0.2, seed=seed)
        assert not patients(datalist, "training") & patients(datalist, "validation")
        for modality, scans_per_patient in (("mr", 2), ("ct", 1)):
            assert len(datalist[modality]["validation"]) >= 2 * scans_per_patient
            assert datalist[modality]["training"]
    assert make_datalist(ct, mr, patient_regex=r"(sub\d+)", seed=1) == make_datalist(
        ct, mr, patient_regex=r"(sub\d+)", seed=1
    )


def test_one_file_each_trains_and_validation_is_switched_off(tmp_path, caplog):
    datalist = make_datalist(folder(tmp_path / "ct", ["a"]), folder(tmp_path / "mr", ["b"]), validation_fraction=0.5)
    assert [len(datalist[m][p]) for m in ("ct", "mr") for p in ("training", "validation")] == [1, 0, 1, 0]
    assert "validation is switched off" in caplog.text


def test_fraction_zero_holds_out_none(tmp_path):
    datalist = make_datalist(None, folder(tmp_path, "abcdef"), validation_fraction=0)
    assert len(datalist["mr"]["training"]) == 6
    assert datalist["ct"] == {"training": [], "validation": []}


def test_a_name_without_patient_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patient_regex must match every case name"):
        make_datalist(None, folder(tmp_path, ["sub01_t1", "phantom"]), patient_regex=r"sub(\d+)")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ct_dir must hold at least one scan"):
        make_datalist(str(tmp_path), None)


def test_datalist_file_decides(tmp_path):
    mr = folder(tmp_path / "mr", ["one", "two"])
    content = {"mr": {"training": [{"image": "one.nii.gz", "patient": "p"}], "validation": [{"image": "two.nii.gz"}]}}
    (tmp_path / "list.json").write_text(json.dumps(content))
    datalist = make_datalist(None, mr, datalist_file=str(tmp_path / "list.json"))
    assert datalist["mr"]["training"] == [{"image": f"{mr}/one.nii.gz", "case": "one", "patient": "p", "weight": 1.0}]
    assert datalist["mr"]["validation"][0]["patient"] == "two"
    content["mr"]["validation"][0]["patient"] = "p"
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="one part only"):
        make_datalist(None, mr, datalist_file=str(tmp_path / "list.json"))
    content["mr"]["training"][0]["image"] = "gone.nii.gz"
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="existing scans"):
        make_datalist(None, mr, datalist_file=str(tmp_path / "list.json"))


def test_one_ct_and_one_mr_file_of_the_same_name_are_enough(tmp_path, caplog):
    for modality in ("ct", "mr"):
        save_nifti(tmp_path / modality / "scan.nii.gz", smooth_volume((8, 8, 8)), make_affine([1, 1, 1]))
    datalist = make_datalist(str(tmp_path / "ct"), str(tmp_path / "mr"))
    patients = [datalist[modality]["training"][0]["patient"] for modality in ("ct", "mr")]
    assert patients == ["ct:scan", "mr:scan"]
    assert "taken for two people" in caplog.text


def test_with_more_files_a_shared_name_stays_a_shared_person(tmp_path):
    for name in ("ct/a", "mr/a", "mr/b"):
        save_nifti(tmp_path / f"{name}.nii.gz", smooth_volume((8, 8, 8)), make_affine([1, 1, 1]))
    datalist = make_datalist(str(tmp_path / "ct"), str(tmp_path / "mr"), validation_fraction=0)
    assert datalist["ct"]["training"][0]["patient"] == "a"
    assert [item["patient"] for item in datalist["mr"]["training"]] == ["a", "b"]
