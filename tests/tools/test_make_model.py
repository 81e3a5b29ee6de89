# SPDX-License-Identifier: Apache-2.0
"""The recipe of the shipped weights, at a reduced size: what it takes, and that it makes the same weights twice."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, TINY, make_affine, save_nifti, smooth_volume
from tools.make_model import patient_of, prepare


@pytest.fixture
def data(tmp_path):
    """Four made-up volumes under names that the recipe knows, and two that it must not take."""
    rows = [
        ("train/ct/lidc0314.nii.gz", "CT", "train; weights may ship", [1, 1, 1]),
        ("train/mr_thick/oms01_t1w.nii.gz", "MR", "train; weights may ship", [0.9, 0.9, 4]),
        ("train/mr_hr/t1_adi.nii.gz", "MR", "train; weights may ship", [1, 1, 1]),
        ("train/mr_thick/oms12_t1w.nii.gz", "MR", "train; weights may ship", [0.9, 0.9, 4]),
        ("train/ct_research/lidc9999.nii.gz", "CT", "train; research only", [1, 1, 1]),
        ("test/mr_hr/t1_secret.nii.gz", "MR", "test", [1, 1, 1]),
    ]
    for number, (path, modality, _, spacing) in enumerate(rows):
        volume = smooth_volume((40, 44, 12 if spacing[2] > 1 else 40), seed=number)
        volume = volume * 1.5 - 1000 if modality == "CT" else volume
        save_nifti(tmp_path / "data" / path, volume.astype(np.int16), make_affine(spacing))
    with (tmp_path / "data" / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "modality", "use"])
        writer.writerows(row[:3] for row in rows)
    return tmp_path / "data"


def test_only_rows_whose_licence_lets_weights_ship_are_taken(data, tmp_path):
    datalist = json.loads(prepare(data, tmp_path / "out", 4).read_text())
    names = {part: {item["image"] for item in datalist["mr"][part]} for part in ("training", "validation")}
    assert names["training"] == {"oms01_t1w.nii.gz", *(f"t1_adi_thick{axis}.nii.gz" for axis in range(3))}
    assert names["validation"] == {"oms12_t1w.nii.gz"}
    assert [item["image"] for item in datalist["ct"]["training"]] == ["lidc0314.nii.gz"]


def test_a_file_of_an_unknown_patient_is_an_error():
    assert patient_of("oms01_flair.nii.gz") == "oms01"
    with pytest.raises(ValueError, match="PATIENTS"):
        patient_of("stranger.nii.gz")


@pytest.mark.slow
def test_the_same_seed_makes_the_same_weights(data, tmp_path):
    weights = []
    for name in ("one", "two"):
        subprocess.run(
            [
                *[sys.executable, "-m", "tools.make_model", "--data", data, "--output", tmp_path / name],
                *["--iterations", "3", "3", "--set", *(f"{key}={value}" for key, value in TINY.items())],
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'bundle'}"},
            capture_output=True,
            check=True,
        )
        weights.append(torch.load(tmp_path / name / "stage2.pt", weights_only=True))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    first = torch.load(tmp_path / "one" / "stage1.pt", weights_only=True)
    assert not all(torch.equal(first[key], weights[0][key]) for key in first)


@pytest.mark.slow
def test_size_study_on_one_tiny_size(data, tmp_path):
    (tmp_path / "sizes.json").write_text('{"dot": {"blocks": 1, "layers": 1, "growth": 4, "features": 4}}')
    settings = {key: value for key, value in TINY.items() if "network_def" not in key and key != "val_interval"}
    (tmp_path / "recipe.json").write_text(json.dumps({**settings, "autocast": None}))
    subprocess.run(
        [
            *[sys.executable, "-m", "tools.size_study", "--data", data, "--output", tmp_path / "out", "--rounds", "1"],
            *["--iterations", "2", "2", "--sizes", tmp_path / "sizes.json", "--recipe", tmp_path / "recipe.json"],
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bundle'}"}, check=True, capture_output=True,
    )  # fmt: skip
    row = json.loads((tmp_path / "out" / "sizes.json").read_text())["dot"]
    # by hand: 1-4 and 4-4 of 3 x 3, a block of 4-4 (3 x 3) and 8-4 (1 x 1), 4-4 (1 x 1), 4-4, 4-16 and 4-1 of 3 x 3
    weights = 9 * (4 + 16) + 9 * 16 + 32 + 16 + 9 * (16 + 64 + 4)
    assert row["parameters"] == weights + (4 + 4 + 4 + 4 + 4 + 4 + 16 + 1)
    assert np.isfinite(row["gain_db"])
    assert row["seconds_per_megapixel"] > 0
    assert (tmp_path / "out" / "sizes.png").stat().st_size > 3000
