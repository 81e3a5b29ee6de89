# SPDX-License-Identifier: Apache-2.0
"""The recipe of the shipped weights, at a reduced size: what it takes, and that it makes the same weights twice."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT, TINY
from tools import make_model
from tools.make_model import patient_of, prepare, weigh


def test_only_rows_whose_licence_lets_weights_ship_are_taken(manifest_data, tmp_path):
    datalist = json.loads(prepare([manifest_data], tmp_path / "out").read_text())
    names = {part: {item["image"] for item in datalist["mr"][part]} for part in ("training", "validation")}
    assert names["training"] == {"oms01_t1w.nii.gz", *(f"t1_adi_thick{axis}.nii.gz" for axis in range(3))}
    assert names["validation"] == {"oms12_t1w.nii.gz"}
    assert [item["image"] for item in datalist["ct"]["training"]] == ["lidc0314.nii.gz"]


def test_a_file_of_an_unknown_patient_is_an_error():
    who = {"mr": {"head": {"share": 1, "patients": ["oms01"]}}}
    assert patient_of("oms01_flair.nii.gz", "mr", who) == ("head", "oms01")
    with pytest.raises(ValueError, match=r"model_data\.json"):
        patient_of("stranger.nii.gz", "mr", who)


def test_an_anatomy_keeps_its_share_however_many_scans_it_has():
    items = [{"anatomy": "head", "patient": p} for p in ("a", "a", "a", "b")] + [{"anatomy": "knee", "patient": "c"}]
    weigh(items, {"head": 6, "knee": 2})
    assert [item["weight"] for item in items] == [1, 1, 1, 3, 2]


def test_a_stage_without_iterations_is_left_out(tmp_path, monkeypatch):
    """Stage 2 goes on from older weights, whose file is an id."""
    calls = []
    monkeypatch.setattr(make_model, "prepare", lambda folders, output: output / "datalist.json")
    monkeypatch.setattr(make_model, "train_stage", lambda *args, **ids: calls.append((args[:2], ids)))
    options = ["--data", "data", "--output", str(tmp_path), "--iterations", "0", "7", "--set", "start_weights=old.pt"]
    monkeypatch.setattr(sys, "argv", ["make_model", *options])
    make_model.main()
    assert calls == [((2, 7), {"start_weights": "old.pt"})]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_weights(manifest_data, tmp_path):
    weights = []
    for name in ("one", "two"):
        subprocess.run(
            [
                *[sys.executable, "-m", "tools.make_model", "--data", manifest_data, "--output", tmp_path / name],
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
