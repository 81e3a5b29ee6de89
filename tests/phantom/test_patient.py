# SPDX-License-Identifier: Apache-2.0
"""The made-up patient: the same person every time, tissue that adds up, MR and CT of one anatomy, exact geometry."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scripts.geometry import SliceGrid

from phantom import TISSUES, make_anatomy, make_patient
from phantom.__main__ import main as make_patients
from phantom.dicom import write_series
from phantom.patient import ct_image, mr_image, oblique_affine
from tests.conftest import ROOT

SHAPE, SPACING = (48, 56, 48), (2.4, 2.4, 2.4)


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(3, SHAPE, SPACING)


def test_tissues_fill_every_voxel_and_all_occur(anatomy):
    np.testing.assert_allclose(anatomy.fractions.sum(axis=0), 1, atol=1e-4)
    assert anatomy.fractions.min() >= 0
    volume = dict(zip(TISSUES, anatomy.fractions.reshape(len(TISSUES), -1).sum(1), strict=True))
    assert min(volume.values()) > 3
    assert volume["air"] > volume["white"] > volume["eye"]
    edge = anatomy.fractions[TISSUES.index("air")]
    assert min(edge[0].min(), edge[:, -1].min(), edge[..., -1].min()) > 0.99, "the head must lie inside"


def test_same_seed_same_person_other_seed_other_person(anatomy):
    np.testing.assert_array_equal(make_anatomy(3, SHAPE, SPACING).fractions, anatomy.fractions)
    assert np.abs(make_anatomy(4, SHAPE, SPACING).fractions - anatomy.fractions).max() > 0.9


def test_every_modality_shows_its_known_values(anatomy):
    quiet = {
        "ct": ct_image(anatomy, 0, noise_hu=0.01),
        "t1": mr_image(anatomy, 0, "t1", noise=0.0, bias=0.0),
        "t2": mr_image(anatomy, 0, "t2", noise=0.0, bias=0.0),
    }

    def mean(image, tissue):
        return image[anatomy.fractions[TISSUES.index(tissue)] > 0.999].mean()

    assert mean(quiet["ct"], "air") == pytest.approx(-1000, abs=1)
    assert mean(quiet["ct"], "fat") == pytest.approx(-95, abs=1)
    assert mean(quiet["t1"], "white") > mean(quiet["t1"], "grey") > mean(quiet["t1"], "csf")
    assert mean(quiet["t2"], "csf") > mean(quiet["t2"], "grey") > mean(quiet["t2"], "white")


def test_noise_is_rician(anatomy):
    image = mr_image(anatomy, 5, noise=20.0)
    air = image[anatomy.fractions[0] > 0.9999]
    assert air.min() >= 0
    # air has a signal of 4, which hardly matters: Rayleigh mean is sigma sqrt(pi / 2)
    assert air.mean() == pytest.approx(20 * np.sqrt(np.pi / 2), rel=0.05)


def test_affine_is_a_rotation_about_the_centre():
    affine = oblique_affine(SHAPE, (1.0, 2.0, 3.0), (10, -20, 30))
    rotation = affine[:3, :3] / [1.0, 2.0, 3.0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(affine @ [*((np.asarray(SHAPE) - 1) / 2), 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(
        oblique_affine(SHAPE, SPACING, (90, 0, 0))[:3, :3] / 2.4 @ [0, 1, 0], [0, 0, 1], atol=1e-9
    )


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_itk_reads_the_dicom_series_where_and_what_it_is(tmp_path, modality):
    patient = make_patient(2, (20, 24, 8), (6.0, 5.0, 16.0), angles_degrees=(12, -7, 5))
    array = patient.mr if modality == "MR" else patient.ct
    files = write_series(tmp_path, array, patient.affine_ras, modality)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, np.rint(array))
    for voxel in ((0, 0, 0), (19, 23, 7), (3, 11, 5)):
        lps = np.asarray(image.TransformIndexToPhysicalPoint([int(v) for v in voxel]))
        np.testing.assert_allclose(lps * [-1, -1, 1], (patient.affine_ras @ [*voxel, 1])[:3], atol=1e-3)
    assert len(files) == 8


@pytest.mark.system
def test_dciodvfy_finds_no_error(tmp_path):
    patient = make_patient(2, (20, 24, 8), (6.0, 5.0, 16.0), angles_degrees=(12, -7, 5))
    for modality, array in (("MR", patient.mr), ("CT", patient.ct)):
        file = write_series(tmp_path / modality, array, patient.affine_ras, modality)[3]
        found = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr


@pytest.mark.slow
def test_command_writes_pairs_whose_thick_mr_is_the_truth_made_thick(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "phantom", "--output", tmp_path, "--patients", "1", "--seed", "4", "--contrast", "t2"],
        cwd=ROOT, check=True, capture_output=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'bundle'}", "PATH": ""},
    )  # fmt: skip
    ct, thin, thick = (nib.load(tmp_path / name / "phantom004.nii.gz") for name in ("ct", "mr_hr", "mr"))
    np.testing.assert_allclose(ct.affine, thin.affine)
    np.testing.assert_allclose(
        thick.affine, SliceGrid.under_slab(thin.shape[2], 4).thick_affine(thin.affine, 2), atol=1e-4
    )
    weights = np.exp(-((np.arange(-6, 10) - 1.5) ** 2) / (2 * (4 / 2.3548) ** 2))
    weights[np.abs(np.arange(-6, 10) - 1.5) > 3 * 4 / 2.3548] = 0
    slab = np.asarray(thin.dataobj, float)[..., 24 - 6 : 24 + 10] @ weights / weights.sum()
    np.testing.assert_allclose(np.asarray(thick.dataobj)[..., 6], slab, atol=1.0)


def test_command_makes_two_contrasts_of_one_person(tmp_path, monkeypatch):
    contrasts = {}
    for contrast in ("t1", "t2"):
        arguments = ["phantom", "--output", str(tmp_path / contrast), "--patients", "1", "--contrast", contrast]
        monkeypatch.setattr(sys, "argv", arguments)
        make_patients()
        contrasts[contrast] = nib.load(tmp_path / contrast / "mr_hr" / "phantom000.nii.gz")
    t1, t2 = contrasts.values()
    np.testing.assert_array_equal(t1.affine, t2.affine)
    fluid = np.asarray(t2.dataobj) > 900
    assert fluid.mean() > 0.001
    assert np.asarray(t1.dataobj)[fluid].mean() < 300, "fluid is bright in T2 and dark in T1"
