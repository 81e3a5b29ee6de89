# SPDX-License-Identifier: Apache-2.0
"""``thinslice train`` and ``thinslice evaluate``, which need more packages than a light installation has."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
SMOKE = ["--iterations", "2", "--config", "smoke.json", "--stage", "1", "--set", "batch_size=2"]
SIZE = [
    f"{key.removeprefix('network_def::')}={value}"
    for key, value in json.loads((ROOT / "bundle" / "configs" / "smoke.json").read_text()).items()
    if key.startswith("network_def::")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made-up patients in ``d/ct``, ``d/mr``, ``d/mr_hr``."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(folder, "d", "--patients", "3", module="phantom", option="--output")
    return folder


def run(folder, *arguments, module="thinslice", option=None):
    words = [*([option] if option else []), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_evaluation_prints_what_its_table_holds(folder):
    result = run(folder, "evaluate", "d/mr_hr", "eval", "--axis", "coronal", "--set", "pictures=false")
    assert result.returncode == 0, result.stderr
    cases = json.loads((folder / "eval" / "metrics.json").read_text())["cases"]
    assert len(cases) == 3
    for case, rows in cases.items():
        assert f"{case}: bicubic {rows['bicubic']['psnr']:.2f} dB / {rows['bicubic']['ssim']:.3f}" in result.stdout
        assert f"ours {rows['ours']['psnr']:.2f} dB" in result.stdout


def test_training_leaves_weights_that_the_command_takes(folder):
    result = run(folder, "train", "out", "--ct", "d/ct", "--mr", "d/mr", *SMOKE)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 3
    assert (folder / "out" / "curves.png").is_file()
    size = [word for item in SIZE for word in ("--set", f"network_def::{item}")]
    own = ["--exact", "--set", "ckpt_path=out/stage1.pt"]
    result = run(folder, "d/mr/phantom000.nii.gz", "sr", *own, *size)
    assert result.returncode == 0, result.stderr
    wrong = run(folder, "d/mr/phantom000.nii.gz", "wrong", *own)
    assert wrong.returncode == 1
    (line,) = wrong.stderr.splitlines()
    assert "must hold the bare state dict" in line


def test_training_that_cannot_start_is_one_line(folder):
    missing = run(folder, "train", "out2", "--ct", "nowhere", "--mr", "d/mr", *SMOKE)
    assert missing.returncode == 2
    assert missing.stderr.startswith("thinslice: --ct and --mr must be folders, got nowhere")
    unknown = run(folder, "train", "out2", "--ct", "d/ct", "--mr", "d/mr", *SMOKE, "--set", "no_such_id=3")
    assert unknown.returncode == 2
    (line,) = unknown.stderr.splitlines()
    assert line == (
        "thinslice: --set must name an id of common.json with train_stage1.json with smoke.json, got no_such_id; "
        "see docs/configs.md"
    )
