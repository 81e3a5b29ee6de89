# SPDX-License-Identifier: Apache-2.0
"""inference.json on scans with known geometry: grid, values, dtype, refusals, from anywhere."""

import itertools
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.networks.srnet import SRNet
from torch.nn import functional as F

from tests.conftest import BUNDLE, TINY_NETWORK, make_affine, run_bundle, run_workflow, save_nifti, smooth_volume

SIZE = {f"network_def::{name}": value for name, value in TINY_NETWORK.items()}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    torch.save(SRNet(**TINY_NETWORK).state_dict(), path)
    return path


@pytest.fixture
def infer(tmp_path, weights):
    def run(dataset_dir=None, **overrides):
        settings = {"ckpt_path": str(weights), "device": "cpu", "progress": False, **SIZE, **overrides}
        return run_workflow(
            "inference.json",
            workflow_type="infer",
            bundle_root=str(BUNDLE),
            dataset_dir=str(dataset_dir or tmp_path / "in"),
            output_dir=str(tmp_path / "out"),
            **settings,
        )

    return run


def thick(shape=(24, 20, 9), seed=0):
    return np.round(smooth_volume(shape, seed))


SCANS = {
    "axial_int16": ((24, 20, 9), [1.0, 1.2, 4.0], {}, np.int16),
    "sagittal_uint16": ((9, 20, 24), [5.0, 0.9, 0.9], {"permute": (0, 1, 2), "flip": (-1, 1, -1)}, np.uint16),
    "coronal_float": ((20, 8, 22), [1.0, 4.4, 1.1], {"flip": (1, -1, 1)}, np.float32),
    "oblique_int32": ((22, 20, 9), [0.8, 0.9, 4.0], {"rotate": (21, -13, 34), "permute": (2, 0, 1)}, np.int32),
}


@pytest.mark.parametrize(
    ("target", "thin_mm"),
    [
        ({}, lambda in_plane, slices: min(in_plane)),
        ({"target_spacing_mm": 1.3}, lambda in_plane, slices: 1.3),
        ({"scale_factor": 4}, lambda in_plane, slices: slices / 4),
        ({"scale_factor": 2.5}, lambda in_plane, slices: slices / 2.5),
    ],
)
def test_every_orientation_and_dtype_comes_out_on_the_right_grid(tmp_path, infer, target, thin_mm):
    grids = {}
    for name, (shape, spacing, orientation, dtype) in SCANS.items():
        axis = int(np.argmax(spacing))
        thin = thin_mm([s for a, s in enumerate(spacing) if a != axis], spacing[axis])
        grids[name] = thin, SliceGrid.over_slab(shape[axis], spacing[axis] / thin)
        # slices of something: not any slices are those of a volume without negative values; the signed ones have some
        whole = smooth_volume(tuple(grids[name][1].n_thin if a == axis else n for a, n in enumerate(shape)))
        operator = SliceProfileOperator(grids[name][1], "box")
        slices = np.moveaxis(np.moveaxis(whole, axis, -1) @ operator.matrix.T, -1, axis)
        slices = np.round(slices) - (0 if dtype == np.uint16 else 100)
        save_nifti(tmp_path / "in" / f"{name}.nii.gz", slices.astype(dtype), make_affine(spacing, **orientation))
    infer(data_consistency="exact", **target)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{name}_sr.nii.gz" for name in SCANS}
    for name, (shape, spacing, orientation, dtype) in SCANS.items():
        image = nib.load(tmp_path / "out" / f"{name}_sr.nii.gz")
        axis = int(np.argmax(spacing))
        thin, grid = grids[name]
        count = int(np.floor(shape[axis] * spacing[axis] / thin + 0.5))
        assert image.shape == tuple(count if a == axis else n for a, n in enumerate(shape))
        assert image.get_data_dtype() == dtype
        # spacing as asked, and the middle of the slab where it was
        before, after = make_affine(spacing, **orientation), image.affine
        np.testing.assert_allclose(
            image.header.get_zooms(), [thin if a == axis else s for a, s in enumerate(spacing)], rtol=1e-5
        )
        for corner in itertools.product((0.0, 1.0), repeat=2):
            middles = [
                (affine @ np.insert([*corner, 1.0], axis, (n - 1) / 2))[:3]
                for affine, n in ((before, shape[axis]), (after, count))
            ]
            np.testing.assert_allclose(*middles, atol=1e-3)
        assert (image.header["sform_code"], image.header["qform_code"]) == (2, 0)  # the source's, as nibabel writes it
        assert not bytes(image.header["descrip"]).strip(b"\0")
        source = np.asarray(nib.load(tmp_path / "in" / f"{name}.nii.gz").dataobj, np.float32)
        again = SliceProfileOperator(grid, "box").degrade(
            torch.from_numpy(np.moveaxis(np.asarray(image.dataobj, np.float32), axis, -1).copy())
        )
        error = np.abs(np.moveaxis(again.numpy(), -1, axis) - source)
        # rounded slices without negative values: no volume without them explains all of them to the last digit
        assert error.max() < (1e-2 if dtype == np.uint16 else 1e-3) * np.ptp(source)


def test_storage_order_does_not_change_the_result(tmp_path, infer):
    affine = make_affine([1.0, 1.1, 4.0], rotate=(8, 3, -5))
    volume = thick()
    save_nifti(tmp_path / "in" / "a.nii.gz", volume.astype(np.float32), affine)
    flipped = affine.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] = affine[:3, :3] @ [volume.shape[0] - 1, 0, 0] + affine[:3, 3]
    save_nifti(
        tmp_path / "in" / "b.nii.gz", volume[::-1].transpose(2, 0, 1).astype(np.float32), flipped[:, [2, 0, 1, 3]]
    )
    infer()
    a, b = (np.asarray(nib.load(tmp_path / "out" / f"{n}_sr.nii.gz").dataobj) for n in "ab")
    np.testing.assert_array_equal(a, b.transpose(1, 2, 0)[::-1])


def test_without_weights_and_consistency_the_output_is_cubic_interpolation(tmp_path, infer, weights):
    torch.save({k: torch.zeros_like(v) for k, v in torch.load(weights, weights_only=True).items()}, weights)
    scan = thick().astype(np.float32) - 100  # with negative values, so that there is no floor
    save_nifti(tmp_path / "in" / "a.nii.gz", scan, make_affine([1, 1, 4]))
    infer(data_consistency="off")
    found = np.asarray(nib.load(tmp_path / "out" / "a_sr.nii.gz").dataobj)
    expected = F.interpolate(torch.from_numpy(scan)[:, None], size=(20, 36), mode="bicubic")[:, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_slice_thickness_reaches_the_operator(tmp_path, infer):
    scan = thick().astype(np.float32) - 100  # with negative values, so that there is no floor
    save_nifti(tmp_path / "in" / "a.nii.gz", scan, make_affine([1, 1, 5]))
    infer(data_consistency="exact", slice_thickness_mm=3.5)
    found = torch.from_numpy(np.asarray(nib.load(tmp_path / "out" / "a_sr.nii.gz").dataobj))
    again = SliceProfileOperator(SliceGrid.over_slab(9, 5), "box", 3.5 / 5).degrade(found).numpy()
    assert np.abs(again - scan).max() < 1e-3 * np.ptp(scan)


def test_self_check_writes_its_quality_beside_the_result_and_calibrates_the_map(tmp_path, infer):
    save_nifti(tmp_path / "in" / "sub" / "a.nii.gz", thick((64, 60, 9)).astype(np.int16), make_affine([1, 1, 3]))
    infer(error_map=True)
    expected = nib.load(tmp_path / "out" / "sub" / "a_error.nii.gz").get_fdata()
    infer(error_map=True, self_check=True)
    quality = json.loads((tmp_path / "out" / "sub" / "a_quality.json").read_text())
    calibrated = nib.load(tmp_path / "out" / "sub" / "a_error.nii.gz").get_fdata()
    assert set(quality) == {
        "predicted_gain_db", "gain_region", "withheld", "flags", "result", "numbers", "patches", "error_map",
    }  # fmt: skip
    np.testing.assert_allclose(calibrated, quality["error_map"]["factor"] * expected, rtol=1e-5)
    assert quality["error_map"]["factor"] != 1


def test_the_cubic_fallback_is_cubic_with_data_consistency_and_says_so(tmp_path, infer, weights):
    save_nifti(tmp_path / "in" / "a.nii.gz", thick((64, 60, 9)).astype(np.float32), make_affine([1, 1, 3]))
    never = {"quality_limits::gain_over_consistent_cubic_db": {"at_least": 100}}
    infer(self_check=True, when_worse="cubic", **never)
    found = nib.load(tmp_path / "out" / "a_sr.nii.gz")
    assert found.header["descrip"].item().startswith(b"cubic interpolation")
    torch.save({k: torch.zeros_like(v) for k, v in torch.load(weights, weights_only=True).items()}, weights)
    infer()  # a network that adds nothing to cubic interpolation
    expected = nib.load(tmp_path / "out" / "a_sr.nii.gz")
    assert b"cubic" not in expected.header["descrip"].item()
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=0.02)


@pytest.mark.parametrize("flips", [False, True])
def test_disagreement_map_is_a_second_file_on_the_same_grid(tmp_path, infer, flips):
    save_nifti(
        tmp_path / "in" / "a.nii.gz", thick((9, 20, 24)).astype(np.int16), make_affine([4, 1, 1], flip=(-1, 1, 1))
    )
    infer(disagreement=True, flips=flips)
    result, spread = (nib.load(tmp_path / "out" / f"a_{suffix}.nii.gz") for suffix in ("sr", "disagreement"))
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert result.shape == spread.shape == (36, 20, 24)
    np.testing.assert_allclose(result.affine, spread.affine)
    values = np.asarray(spread.dataobj)
    assert spread.get_data_dtype() == np.float32
    assert values.min() >= 0
    assert 0 < values.max() < 500


BAD = {
    "flat2d": (np.ones((20, 20), np.int16), [1, 1, 4], "NOT_3D"),
    "movie": (np.ones((12, 12, 6, 3), np.int16), [1, 1, 4], "NOT_3D"),
    "nan": (np.where(thick() == thick().max(), np.nan, thick()).astype(np.float32), [1, 1, 4], "NONFINITE"),
    "constant": (np.full((12, 12, 6), 7, np.int16), [1, 1, 4], "CONSTANT"),
    "cube": (thick((12, 12, 12)).astype(np.int16), [1, 1, 1], "ISOTROPIC"),
    "flatspacing": (thick().astype(np.int16), [1, 1, 0], "NO_GEOMETRY"),
    "short": (thick((20, 20, 2)).astype(np.int16), [1, 1, 4], "TOO_SMALL"),
}


def test_bad_scans_get_one_line_each_and_the_good_one_its_result(tmp_path, infer, capsys):
    for name, (array, spacing, _) in BAD.items():
        affine = np.diag([*spacing, 1.0])
        image = nib.Nifti1Image(array, None)
        image.header.set_sform(affine, code=1)
        image.header["pixdim"][1:4] = spacing
        (tmp_path / "in").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"\x1f\x8b garbage")
    save_nifti(tmp_path / "in" / "good.nii.gz", thick().astype(np.int16), make_affine([1, 1, 4]))
    with pytest.raises(SystemExit) as caught:
        infer()
    assert caught.value.code == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if ": " in line and "%|" not in line]
    found = {line.split(":")[0]: line for line in lines}
    for name, (_, _, reason) in {**BAD, "broken": (0, 0, "UNREADABLE")}.items():
        assert f"{name}: {reason}" in found[name]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good_sr.nii.gz"]


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_or_missing_folder_is_said_so(tmp_path, infer, capsys, make):
    if make:
        (tmp_path / "in").mkdir()
    with pytest.raises(SystemExit) as caught:
        infer()
    assert caught.value.code == 4
    assert "nothing to process" in capsys.readouterr().err


def test_results_mirror_the_folders_and_two_files_of_one_name_are_refused(tmp_path, infer, capsys):
    for name in ("x/scan.nii.gz", "y/scan.nii.gz", "scan2.nii", "scan3.nii", "scan3.nii.gz"):
        save_nifti(tmp_path / "in" / name, thick().astype(np.int16), make_affine([1, 1, 4]))
    with pytest.raises(SystemExit):
        infer()
    assert "scan3: DUPLICATE_NAME" in capsys.readouterr().err
    results = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.nii.gz")}
    assert results == {"scan2_sr.nii.gz", "x/scan_sr.nii.gz", "y/scan_sr.nii.gz"}


@pytest.mark.slow
def test_from_another_directory_as_a_user_types_it(tmp_path, weights):
    """The real command, relative paths, one file as dataset_dir."""
    save_nifti(tmp_path / "scan.nii.gz", thick().astype(np.int16), make_affine([1, 1, 4]))
    arguments = [f"--{key}={value}" for key, value in SIZE.items()]
    result = run_bundle(
        "--config_file", BUNDLE / "configs" / "inference.json", "--bundle_root", BUNDLE, "--dataset_dir", "scan.nii.gz",
        "--output_dir", "results", "--ckpt_path", weights, *arguments, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["scan_sr.nii.gz"]
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "scan.nii.gz").write_bytes(b"nothing")
    result = run_bundle(
        "evaluating", "--config_file", BUNDLE / "configs" / "inference.json", "--bundle_root", BUNDLE, "--dataset_dir",
        "scan.nii.gz", "--output_dir", "results", "--ckpt_path", weights, *arguments, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 3
    assert "scan: UNREADABLE" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not list((tmp_path).glob("results/*"))


def test_network_definition_is_the_one_of_training():
    """MONAI Label reads inference.json alone, so what training shares with it stands twice; it must not drift."""
    inference, common = (json.loads((BUNDLE / "configs" / f"{n}.json").read_text()) for n in ("inference", "common"))
    for key in (
        "network_def", "min_anisotropy", "min_distinct_values", "mr_percentiles", "load", "orient",
        "scale_mr",
    ):  # fmt: skip
        assert inference[key] == common[key]
