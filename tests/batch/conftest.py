# SPDX-License-Identifier: Apache-2.0
"""A tiny model and small series for the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.networks.srnet import SRNet

from tests.conftest import BUNDLE, LIGHT, ROOT, TINY_NETWORK, make_affine, run_workflow, smooth_volume
from tests.dicom.synthetic import write_series

SETTINGS = {"device": "cpu", "threads_per_worker": 1, "progress": False}
SETTINGS |= {f"network_def::{key}": value for key, value in TINY_NETWORK.items()}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(SRNet(**TINY_NETWORK).state_dict(), path)
    return path


def thick_series(folder: Path, seed: str = "series", shape=(24, 20, 9), spacing=(1.0, 1.2, 5.0), **options):
    """A small series of smooth tissue that differs by seed; returns its array and affine."""
    array = np.rint(smooth_volume(shape, seed=zlib.crc32(seed.encode())))
    affine = make_affine(spacing, rotate=(4, -7, 9))
    write_series(folder, array.astype(np.int32), affine, seed=seed, **options)
    return array, affine


@pytest.fixture
def batch_command(tmp_path, weights):
    """``dataset_dir, ids -> command line`` of the batch with the tiny model."""

    def command(dataset_dir=None, output_dir=None, launcher=(), **ids) -> list[str]:
        settings = {"ckpt_path": weights, **SETTINGS, **ids}
        return [
            *(launcher or (sys.executable,)), "-m", "monai.bundle", "run",
            "--config_file", str(BUNDLE / "configs" / "batch_dicom.json"), "--bundle_root", str(BUNDLE),
            "--dataset_dir", str(dataset_dir or tmp_path / "in"), "--output_dir", str(output_dir or tmp_path / "out"),
            *(f"--{key}={value}" for key, value in settings.items()),
        ]  # fmt: skip

    return command


ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONPATH": os.pathsep.join(map(str, (LIGHT, ROOT, BUNDLE))),
}


@pytest.fixture
def batch(tmp_path, batch_command):
    """Run the batch in a process of its own."""

    def run(**options) -> subprocess.CompletedProcess:
        return subprocess.run(
            batch_command(**options), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip

    return run


def read_report(output_dir: Path) -> dict:
    return json.loads((output_dir / "report.json").read_text())


@pytest.fixture
def batch_here(tmp_path, weights, monkeypatch):
    """Run the batch from this process (its workers are processes all the same); returns the exit code."""
    monkeypatch.syspath_prepend(str(BUNDLE))

    def run(dataset_dir=None, output_dir=None, **ids) -> int:
        settings = {"ckpt_path": str(weights), **SETTINGS, **ids}
        with pytest.raises(SystemExit) as caught:
            run_workflow(
                "batch_dicom.json",
                workflow_type="infer",
                bundle_root=str(BUNDLE),
                dataset_dir=str(dataset_dir or tmp_path / "in"),
                output_dir=str(output_dir or tmp_path / "out"),
                **settings,
            )
        return caught.value.code

    return run


@pytest.fixture
def troubled(tmp_path):
    """Inference configs with :class:`tests.batch.trouble.Troubled` at the end of preprocessing.

    The slices of the results are thick, so that there are few files, and nothing is checked: the tests are about what
    becomes of a series, not about what it looks like.
    """
    path = tmp_path / "trouble.json"
    trouble = {"_target_": "tests.batch.trouble.Troubled", "keys": "image"}
    path.write_text(
        json.dumps({"+preprocessing::transforms": [trouble], "target_spacing_mm": 4.0, "self_check": False})
    )
    return [str(BUNDLE / "configs" / "inference.json"), str(path)]
