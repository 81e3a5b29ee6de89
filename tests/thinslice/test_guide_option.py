# SPDX-License-Identifier: Apache-2.0
"""A guided network from training to `thinslice --guide-ct`, with tiny weights, on made-up patients."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.networks.srnet import SRNet
from scripts.training.weights import save_weights

from phantom import make_patient
from tests.conftest import BUNDLE, TINY, TINY_GUIDE, TINY_NETWORK, run_bundle, save_nifti
from tests.thinslice.test_training import run

pytestmark = pytest.mark.slow
SHAPE = (40, 44, 40)
SIZES = {f"network_def::{name}": value for name, value in {**TINY_NETWORK, **TINY_GUIDE}.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CT of two people, a thick MR of one of them made by boxes, and SRNet's weights."""
    folder = tmp_path_factory.mktemp("guide")
    for seed in (0, 1):
        patient = make_patient(seed, SHAPE, (2.0, 2.0, 2.0))
        save_nifti(
            folder / "ct" / f"{'ab'[seed]}{seed}.nii.gz", np.rint(patient.ct).astype(np.int16), patient.affine_ras
        )
    grid = SliceGrid.over_slab(10, 4)
    thick = SliceProfileOperator(grid, "box").degrade(torch.from_numpy(patient.mr)).numpy()
    save_nifti(folder / "mr.nii.gz", thick, grid.thick_affine(patient.affine_ras, 2))
    torch.manual_seed(0)
    save_weights(SRNet(**TINY_NETWORK), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def weights(folder):
    """Of the guide's part, trained for a few iterations."""
    configs = [str(BUNDLE / "configs" / name) for name in (
        "common.json", "train_stage1.json", "network_guided.json", "train_guided.json",
    )]  # fmt: skip
    ids = {
        **TINY, **SIZES, "ct_dir": folder / "ct", "output_dir": folder / "out", "start_weights": folder / "model.pt",
        "stage_iterations": 6, "learning_rate": 0.01, "thin_spacing_mm": [2.0, 2.5], "ema_decay": 0, "val_patches": 0,
    }  # fmt: skip
    words = [word for key, value in ids.items() for word in (f"--{key}", str(value))]
    result = run_bundle("training", "--config_file", str(configs), "--bundle_root", BUNDLE, *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "out" / "guided.pt"


def test_training_changes_the_part_of_the_guide_alone(folder, weights):
    before = torch.load(folder / "model.pt", weights_only=True)
    after = torch.load(weights, weights_only=True)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert after["guidance.4.weight"].abs().max() > 0


def test_the_command_takes_a_ct_and_the_result_still_explains_the_scan(folder, weights):
    own = [f"{key}={value}" for key, value in SIZES.items()]
    sets = [word for item in [*own, "data_consistency=exact", "output_dtype=float32"] for word in ("--set", item)]
    results = {}
    for name, options in {
        "guided": ["--guide-ct", "ct/b1.nii.gz", "--set", f"ckpt_path={weights}", "--set", "guide_register=false"],
        "as id": ["--set", "guide_ct=ct/b1.nii.gz", "--set", f"ckpt_path={weights}", "--set", "guide_register=false"],
    }.items():
        result = run(folder, "mr.nii.gz", name, "--exact", *options, *sets)
        assert result.returncode == 0, result.stderr
        assert "mr: guide used: placed by the affines of both scans" in result.stdout
        results[name] = nib.load(folder / name / "mr_sr.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(results["guided"], results["as id"])
    plain = [word for item in own if "guide" not in item for word in ("--set", item)]
    same = [
        "--set",
        "data_consistency=exact",
        "--set",
        "output_dtype=float32",
        "--set",
        f"ckpt_path={folder / 'model.pt'}",
    ]
    assert run(folder, "mr.nii.gz", "plain", "--exact", *plain, *same).returncode == 0
    unguided = nib.load(folder / "plain" / "mr_sr.nii.gz").get_fdata(dtype=np.float32)
    thick = nib.load(folder / "mr.nii.gz").get_fdata(dtype=np.float32)
    assert np.abs(results["guided"] - unguided).max() > 0.01 * np.ptp(thick)
    again = results["guided"].reshape(*SHAPE[:2], 10, 4).mean(-1)
    assert np.sqrt(np.mean((again - thick) ** 2)) < 2e-3 * np.ptp(thick)


def test_a_guide_without_its_network_or_without_weights_is_one_line(folder, weights):
    result = run(folder, "mr.nii.gz", "none", "--guide-ct", "nowhere.nii.gz")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "--guide-ct must be a CT, got nowhere.nii.gz" in result.stderr
    result = run(folder, "mr.nii.gz", "none", "--exact", "--guide-ct", "ct/b1.nii.gz")
    assert result.returncode == 2
    assert "must have weights of the guided network" in result.stderr
    result = run(folder, "mr.nii.gz", "none", "--report", "--guide-ct", "ct/b1.nii.gz")
    assert result.returncode == 2
    assert "without --report and --dicom" in result.stderr
    result = run_bundle(
        "--config_file", BUNDLE / "configs" / "inference.json", "--bundle_root", BUNDLE, "--dataset_dir",
        folder / "mr.nii.gz", "--output_dir", folder / "none", "--guide_ct", folder / "ct" / "b1.nii.gz", cwd=folder,
    )  # fmt: skip
    assert result.returncode != 0
    assert "guide_ct must go with a network that takes a guide, got SRNet; add network_guided.json" in result.stderr
