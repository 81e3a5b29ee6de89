# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped ends with the very numbers of one that was not, whatever is switched on."""

import shutil

import pytest
import torch

from tests.conftest import TINY, run_workflow
from tests.training.test_distributed import CONFIGS, torchrun
from tests.training.test_stage3 import SMALL, equal

SETTINGS = {
    1: TINY,
    2: TINY,
    3: {**SMALL, "warmup_iterations": 2},
}
EVERYTHING = {
    "accumulation_steps": 2, "autocast": "bfloat16", "ema_decay": 0.9, "max_gradient_norm": 0.01, "noise_std": 0.02,
    "learning_rate": 1e-2, "lr_step_iterations": 3, "checkpoint_interval": 3, "val_interval": 100,
}  # fmt: skip


def differing(a, b):
    """Names of what differs in two checkpoints; a data loader draws from torch's generator when it is made."""
    assert a.keys() == b.keys()
    return [name for name in a.keys() - {"rng"} if not equal(a[name], b[name])]


@pytest.fixture
def earlier(training_data, tmp_path):
    """The weights that a stage starts from, in a folder of its own."""

    def make(stage, *folders):
        ids = {**training_data, **TINY, "stage_iterations": 2, "output_dir": str(tmp_path / folders[0])}
        for number in range(1, stage):
            run_workflow(*CONFIGS[number], **ids)
        for other in folders[1:]:
            (tmp_path / other).mkdir()
            if stage > 1:
                shutil.copy(tmp_path / folders[0] / f"stage{stage - 1}.pt", tmp_path / other)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resume_under_accumulation_mixed_precision_and_averaging(earlier, training_data, tmp_path, stage):
    """An interval of 3 does not fit an accumulation of 2: the checkpoint is written at 4, where the optimiser steps."""
    ids = {**training_data, **SETTINGS[stage], **EVERYTHING}
    earlier(stage, "whole", "parts")
    run_workflow(*CONFIGS[stage], **{**ids, "stage_iterations": 8, "output_dir": str(tmp_path / "whole")})
    for iterations in (4, 8):
        run_workflow(*CONFIGS[stage], **{**ids, "stage_iterations": iterations, "output_dir": str(tmp_path / "parts")})
    names = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").glob(f"stage{stage}_*"))
    assert names == [f"stage{stage}_4.pt", f"stage{stage}_8.pt"]
    for name in names:
        whole, parts = (
            torch.load(tmp_path / out / "checkpoints" / name, weights_only=True) for out in ("whole", "parts")
        )
        assert differing(whole, parts) == []
        steps = {int(state["step"]) for state in whole["optimizer"]["state"].values()}
        assert max(steps) == whole["iteration"] // 2  # else nothing was accumulated
    whole, parts = (torch.load(tmp_path / out / f"stage{stage}.pt", weights_only=True) for out in ("whole", "parts"))
    assert equal(whole, parts)


def test_a_stage_that_would_end_in_the_middle_of_an_accumulation_is_refused(training_data, tmp_path):
    ids = {**training_data, **TINY, "accumulation_steps": 2, "stage_iterations": 3, "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError) as caught:
        run_workflow(*CONFIGS[1], **ids)
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert "stage_iterations must be a multiple of accumulation_steps, got 3 and 2" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])  # the first stage trains and resumes by the same lines as the second
def test_resume_of_two_processes(earlier, training_data, tmp_path, stage):
    ids = {**training_data, **SETTINGS[stage], **EVERYTHING}
    del ids["device"]
    earlier(stage, "whole", "parts")
    for out, iterations in (("whole", 4), ("parts", 2), ("parts", 4)):
        result = torchrun(
            CONFIGS[stage], {**ids, "stage_iterations": iterations, "output_dir": tmp_path / out}, tmp_path
        )
        assert result.returncode == 0, result.stderr[-3000:]
    whole, parts = (
        torch.load(tmp_path / out / "checkpoints" / f"stage{stage}_4.pt", weights_only=True)
        for out in ("whole", "parts")
    )
    assert differing(whole, parts) == []
