# SPDX-License-Identifier: Apache-2.0
"""The commands in README and docs are run, as they stand there, on small data."""

import re
import shlex
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigParser

from tests.conftest import BUNDLE, ROOT, TINY, make_affine, save_nifti, smooth_volume
from tests.training.test_stage3 import SMALL

PAGES = [ROOT / "README.md", BUNDLE / "docs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NETWORK = {key: value for key, value in TINY.items() if key.startswith("network_def")}


def commands(page) -> list[str]:
    """Lines of the page's shell blocks, continuation lines joined, comments dropped."""
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = re.sub(r"\\\n\s*", " ", "".join(blocks)).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


ALL = [(page, line) for page in PAGES for line in commands(page)]
MAKE = sorted({line for _, line in ALL if line.startswith("make ")})
CONFIGS = ("inference.json", "evaluate.json", "train_stage1.json", "train_stage2.json", "train_stage3.json")


def runs_here(line: str) -> bool:
    """Bundle commands that one process on small files can run."""
    named = any(f"/{name}'" in line or f"/{name} " in line for name in CONFIGS)
    return "monai.bundle run" in line and "torchrun" not in line and named


BUNDLE_RUNS = sorted({line for _, line in ALL if runs_here(line)})


@pytest.mark.parametrize("line", MAKE)
def test_make_targets_exist(line):
    result = subprocess.run(
        ["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_promised_commands_are_there():
    text = "\n".join(BUNDLE_RUNS)
    for name in CONFIGS:
        assert name in text, name
    assert {"make demo", "make test"} <= set(MAKE)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Values of the placeholders in the docs."""
    folder = tmp_path_factory.mktemp("docs")
    save_nifti(folder / "CT" / "a.nii.gz", smooth_volume((40, 40, 36)) - 1000, make_affine([1, 1, 1]))
    thick = smooth_volume((40, 40, 12), seed=3)
    for name in ("MR", "IN", "INPUT"):
        save_nifti(folder / name / "b.nii.gz", thick, make_affine([1, 1, 4]))
    save_nifti(folder / "HR" / "c.nii.gz", smooth_volume((32, 32, 32), seed=4), make_affine([1, 1, 1]))
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update(dict(NETWORK))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    for name in ("stage1", "stage2", "model"):
        (folder / "OUT").mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / "OUT" / f"{name}.pt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", BUNDLE_RUNS)
def test_bundle_commands_run(line, places):
    words = [str(places / word) if (places / word).exists() and word.isupper() else word for word in shlex.split(line)]
    words = ["2" if word in ("N", "100000", "800000") else word for word in words]
    words[0] = sys.executable
    tiny = SMALL if "train_stage3" in line else TINY
    settings = tiny if " training " in line else {**NETWORK, "device": "cpu", "ckpt_path": places / "OUT" / "model.pt"}
    cwd = ROOT if "bundle/configs" in line else BUNDLE
    extra = [f"--{key}={value}" for key, value in settings.items()]
    result = subprocess.run([*words, *extra], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
