# SPDX-License-Identifier: Apache-2.0
"""The same commands on a GPU: inference agrees with the CPU, and all three stages train."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.conftest import BUNDLE, ROOT
from tools.run_bundle import bundle_command, run_bundle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    command = [sys.executable, "-m", "phantom", "--output", str(folder), "--patients", "4", "--size", "small"]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder


def super_resolve(patients, output, **ids):
    scan = sorted((patients / "mr").glob("*.nii.gz"))[0]
    run_bundle(["inference.json"], "run", dataset_dir=scan, output_dir=output, output_dtype="float32", **ids)
    (result,) = output.rglob("*.nii.gz")
    return np.asarray(nib.load(result).dataobj)


def test_inference_agrees_with_the_cpu(patients, tmp_path):
    expected = super_resolve(patients, tmp_path / "cpu", device="cpu")
    span = np.percentile(expected, 99.5) - np.percentile(expected, 0.5)
    ours = super_resolve(patients, tmp_path / "gpu", device="cuda:0")
    assert np.abs(ours - expected).max() < 1e-3 * span
    reduced = super_resolve(patients, tmp_path / "half", device="cuda:0", autocast="float16")
    assert np.abs(reduced - expected).max() < 5e-3 * span


@pytest.mark.parametrize("ids", [[], ["autocast=bfloat16"]])
def test_three_stages_train(patients, tmp_path, ids):
    words = [tmp_path, "--ct", patients / "ct", "--mr", patients / "mr", "--iterations", "4", "--config", "smoke.json"]
    words += [word for item in ids for word in ("--set", item)]
    subprocess.run([sys.executable, "-m", "thinslice", "train", *map(str, words)], check=True, cwd=ROOT)
    weights = torch.load(tmp_path / "stage3.pt", weights_only=True, map_location="cpu")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert all(value.device.type == "cpu" for value in weights.values())


def test_a_smoke_trained_network_is_read_on_the_cpu(patients, tmp_path):
    """What a GPU wrote needs none."""
    ids = {"ct_dir": patients / "ct", "mr_dir": patients / "mr", "output_dir": tmp_path, "stage_iterations": 3}
    run_bundle(["common.json", "train_stage1.json", "smoke.json"], "training", **ids)
    command = bundle_command(
        ["inference.json", "smoke.json"], dataset_dir=patients / "mr", output_dir=tmp_path / "out", device="cpu",
        ckpt_path=tmp_path / "stage1.pt", bundle=BUNDLE,
    )  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path)
    assert list((tmp_path / "out").rglob("*.nii.gz"))
