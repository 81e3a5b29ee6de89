# SPDX-License-Identifier: Apache-2.0
"""Two processes under torchrun share the work and write one report."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.batch.conftest import ENVIRONMENT, read_report, thick_series
from tests.batch.test_resume import contents
from tests.dicom.synthetic import drop


@pytest.mark.slow
def test_two_ranks_do_what_one_does(tmp_path, batch_command, batch_here):
    for i in range(4):
        thick_series(tmp_path / "in" / str(i), seed=str(i))
    thick_series(tmp_path / "in" / "gap", seed="gap", edit=drop(3))
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "--no_python",
        sys.executable,
    )
    command = batch_command(launcher=launcher)
    result = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 1, result.stderr[-2000:]  # torchrun's own code for any that is not 0
    report = read_report(tmp_path / "out")
    assert report["summary"]["exit_code"] == 3
    assert report["summary"]["ranks"] == 2
    assert (report["summary"]["ok"], report["summary"]["refused"]) == (4, 1)
    assert len({record["series"] for record in report["series"]}) == 5
    assert not list((tmp_path / "out").glob(".staging*"))
    done = contents(tmp_path / "out")
    assert batch_here() == 3
    assert read_report(tmp_path / "out")["summary"]["skipped"] == 4
    assert contents(tmp_path / "out") == done
