# SPDX-License-Identifier: Apache-2.0
"""The study of CT guidance: its table by hand, what is not done again, its variants, and one run from end to end."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest

from studies import guidance


def record(variant, seed, *gains, setting="coarse"):
    people = {f"phantom{1000 + index}": gain for index, gain in enumerate(gains)}
    return {"setting": setting, "variant": variant, "seed": seed, "gains_db": people}


def test_table_by_hand():
    records = [
        record("r1", 1, 2.5, 2.7), record("r1", 0, 2.0, 2.2), record("base", 0, 1.9, 2.1), record("base", 1, 2.2, 2.6),
        record("paper", 2, 1.0, 1.0), record("base", 0, 3.0, 3.0, setting="fine"),
    ]  # fmt: skip
    assert guidance.table(records)[2:] == [
        # seeds 2.0 and 2.4; 2.1 and 2.6, so 0.1 and 0.2 more; standard deviation of two values: difference / sqrt 2
        "| coarse | `base` | 2 | +2.200 ± 0.283 |  |  |",
        "| coarse | `r1` | 2 | +2.350 ± 0.354 | +0.150 ± 0.071 | +0.100, +0.200 |",
        "| coarse | `paper` | 1 | +1.000 |  |  |",  # base has no run of this seed
        "| fine | `base` | 1 | +3.000 |  |  |",
    ]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["guidance", *map(str, words)])
    guidance.main()


def test_a_run_that_is_there_is_not_done_again(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(guidance, "make_people", lambda *_: None)
    monkeypatch.setattr(guidance, "score", lambda *_: {"phantom1000": 1.0 + trained[-1][1]})

    def train(data, output, stages, budget_s, seed):
        trained.append((len(stages), seed))
        return tmp_path / f"stage{len(stages)}.pt"

    monkeypatch.setattr(guidance, "train", train)
    words = ("--output", tmp_path, "--settings", "coarse", "--variants", "base", "r1", "--seeds", 0)
    run(monkeypatch, *words)
    assert trained == [(2, 0), (2, 0)]
    run(monkeypatch, *words, 3)
    assert trained[2:] == [(2, 3), (2, 3)]
    table = (tmp_path / "guidance.md").read_text()
    assert "| coarse | `r1` | 2 | +2.500 ± 2.121 | +0.000 ± 0.000 | +0.000, +0.000 |" in table


@pytest.mark.parametrize("name", guidance.VARIANTS)
def test_every_variant_takes_the_whole_time(name):
    stages = guidance.read_variant(name)
    assert sum(stage["share"] for stage in stages) == pytest.approx(1)
    assert stages[0] == guidance.read_variant("base")[0]  # so that all share the weights of stage 1


def test_people_are_apart_and_the_scanner_blurs_within_the_slices_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(guidance, "SHAPE", (32, 24, 16))
    monkeypatch.setattr(guidance, "TEST_ROWS", 8)
    monkeypatch.setattr(guidance, "NOISE", 0.0)
    for name, fwhm in (("fine", 0.0), ("coarse", 2.5)):
        guidance.make_people(tmp_path / name, fwhm, 2)
    names = {kind: {p.name for p in (tmp_path / "fine" / kind).iterdir()} for kind in ("ct", "mr", "test/mr")}
    assert len(set.union(*names.values())) == 6
    fine, coarse = (nib.load(tmp_path / n / "test/mr/phantom1000.nii.gz").get_fdata() for n in ("fine", "coarse"))
    assert fine.shape == (8, 24, 16)
    assert nib.load(tmp_path / "coarse/mr/phantom0100.nii.gz").shape == (32, 24, 4)
    steps = [[np.abs(np.diff(volume, axis=axis)).mean() for axis in range(3)] for volume in (fine, coarse)]
    assert steps[1][1] < 0.6 * steps[0][1]
    # a sum along an axis that is blurred stays what it was, but for what crosses the borders
    np.testing.assert_allclose(coarse.mean(), fine.mean(), rtol=0.05)


@pytest.mark.slow
def test_from_end_to_end(monkeypatch, tmp_path):
    run(
        monkeypatch, "--output", tmp_path, "--settings", "coarse", "--variants", "base", "r2", "paper", "--seeds", 0,
        "--people", 2, "--budget", 1,
    )  # fmt: skip
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "coarse" / "records").iterdir())]
    assert [r["variant"] for r in records] == ["base", "paper", "r2"]
    assert all(set(r["gains_db"]) == {"phantom1000", "phantom1001"} for r in records)
    assert all(np.isfinite(list(r["gains_db"].values())).all() for r in records)
    assert set(records[2]["translation"]) >= {"correlation_with_ct", "sharpness_over_that_of_ct"}
    assert len(list((tmp_path / "coarse" / "seed0").glob("*/stage1.pt"))) == 1  # one stage 1 for all
    assert len((tmp_path / "guidance.md").read_text().splitlines()) == 5
