# SPDX-License-Identifier: Apache-2.0
"""Every command of README and docs runs as it stands, from the folder that its page names, on small data.

A page's commands run in their order in a folder that looks like a checkout, in a shell, with no path set. What makes
them small is added at their end (``SMALLER``). A command that cannot run here says so in the page, in a comment.
"""

import csv
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.networks.srnet import SRNet

from tests.batch.conftest import thick_series
from tests.conftest import BUNDLE, ROOT, TINY, make_affine, save_nifti, smooth_volume
from tests.training.test_stage3 import SMALL

PAGES = [ROOT / "README.md", BUNDLE / "docs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "# not run by tests/docs: "
BLOCK = r"^```(?:sh|bash)\n(?P<block>.*?)^```"
INLINE = r"`(?P<inline>(?:\.venv/bin/python -m (?:phantom|tools|studies|benchmarks)[^`]*|make [a-z0-9-]+ [^`]*))`"

NETWORK = {key: value for key, value in TINY.items() if key.startswith("network_def")}
RUN = {**NETWORK, "device": "cpu", "ckpt_path": "tiny.pt"}


def ids(values: dict, form: str) -> str:
    return " ".join(form.format(key, value) for key, value in values.items())


def words(values: dict) -> str:
    return "--set " + ids(values, "{}={}")


PLAIN = {key: value for key, value in TINY.items() if key not in NETWORK}
TABLE = (
    "--set patch::size=[16,6] per_scan::zssr::network::features=4 per_scan::smore::network::features=4 curve_rows=8 "
    "from_thick_mr::tscn::size=16 supervised::reconresnet::network::features=4 " + ids(NETWORK, "{}={}")
)
# what a line holds: what makes it small
SMALLER = {
    r"monai\.bundle run training .*train_stage3": ids(SMALL, "--{} {}"),
    r"monai\.bundle run training": ids(TINY, "--{} {}"),
    r"monai\.bundle run (evaluating )?--config_file": ids(RUN, "--{} {}"),
    r"make demo$": 'ARGS="--shape 48 56 32"',
    r"make demo INPUT": "",
    r"make train": "--config smoke.json " + words({"lambda_percep": 0}),
    r"thinslice (IN|--exact)": "--exact " + ids(RUN, "--set {}={}"),
    r"make ablation": "--seeds 0 --iterations 2 2 2 --crop 24",
    r"make guidance-study": "--settings coarse --variants base --seeds 0 --people 2 --budget 1",
    r"make model": f"--iterations 2 2 {words(TINY)}",
    r"make table": TABLE,
    r"make mutate": "--files training/handlers --record mutation.jsonl",
    r"make bench ARGS=--update": None,  # it would replace the committed baseline
    r"studies\.sizes": f"--iterations 2 2 --rounds 1 --sizes sizes.json {words(PLAIN)}",
    r"studies\.translation": "--seeds 0 --patients 2 --iterations 2 2 2",
    r"studies\.(calibrate|failure_cases|real_scans)": words(RUN),
    r"studies\.slice_profiles": "--side 24",
    r"benchmarks\.exports": "--rounds 1 --slices 2",
    r"benchmarks\.inference": "--rows 32 --slices 5 --repeats 1 --engines torch",
    r"benchmarks\.gpu": "--rows 32 --slices 5 --repeats 1 --device cpu",
    r"benchmarks\.modes": "--device cpu --repeats 1 --modes contiguous",
    r"benchmarks\.node": "--shape 48 48 6",
    r"benchmarks\.memory": "--sizes 16,16,6 24,24,8",
    r"benchmarks\.scaling": "--repeats 1",
    r"benchmarks\.startup": "--repeats 1",
    r"benchmarks\.processes": "--series 2 --rows 24 --slices 6",
    r"benchmarks\.archive": "--series 20 --workers 1 --per-worker 2",
    r"benchmarks\.index": "--files 300",
    r"benchmarks\.training_processes": "--iterations 2 3 --batch-size 2",
    r"benchmarks\.training": f"--iterations 2 {words(PLAIN)}",
    r"benchmarks\.stage3_step": "--side 32 --width 4 --repeats 1",
}


def commands(text: str) -> list[str]:
    """Lines of the shell blocks and commands in the text, in order; without those that the page says are not run."""
    found = []
    for match in re.finditer(f"{BLOCK}|{INLINE}", text, re.M | re.S):
        if match["inline"]:
            found.append(" ".join(match["inline"].split()))  # a page may break a line within it
            continue
        lines = re.sub(r"\s*\\\n\s*", " ", match["block"]).splitlines()
        run = itertools.takewhile(lambda line: not line.startswith(NOT_RUN), lines)
        found += [line.strip() for line in run if line.strip() and line[0] != "#" and NOT_RUN not in line]
    return found


def small(line: str) -> str | None:
    """The command with what makes it small; ``None`` if it must not run."""
    line = re.sub(r"(?<=--stage_iterations )\w+", "2", line)
    if "monai.bundle run training" in line and "--stage_iterations" not in line:
        line += " --stage_iterations 2"
    line = re.sub(r"\bT=\d+", "T=2", re.sub(r"\bBUDGET=\d+", "BUDGET=0.5", line))
    extra = next((extra for pattern, extra in SMALLER.items() if re.search(pattern, line)), "")
    if extra is None:
        return None
    if line.startswith("make ") and extra and not extra.startswith("ARGS"):
        return f'{line[:-1]} {extra}"' if line.endswith('"') and "ARGS=" in line else f'{line} ARGS="{extra}"'
    return f"{line} {extra}".strip()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file or folder for each placeholder of the docs."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("CT", "path/to/ct"):
        for i in range(2):
            ct = smooth_volume((40, 40, 36), seed=i) * 1.5 - 1000
            save_nifti(folder / name / f"ct{i}.nii.gz", ct.astype(np.int16), make_affine([1, 1, 1]))
    for name in ("MR", "INPUT", "path/to/mr"):
        for i in range(2):
            thick = smooth_volume((40, 40, 12), seed=3 + i)
            save_nifti(folder / name / f"mr{i}.nii.gz", thick.astype(np.int16), make_affine([1, 1, 4]))
    for number, name in enumerate(("HR", "TEST", "TRAIN", "HEADS", "SPINE", "TRAINING_HR")):
        save_nifti(folder / name / f"{name}.nii.gz", smooth_volume((32, 32, 32), 6 + number), make_affine([1, 1, 1]))
    save_nifti(folder / "HEAD.nii.gz", smooth_volume((32, 32, 32), seed=5), make_affine([1, 1, 1]))
    save_nifti(folder / "path" / "to" / "scan" / "b.nii.gz", smooth_volume((40, 40, 8), 4), make_affine([1, 1, 4]))
    thick_series(folder / "IN" / "SERIES")
    rows = [
        ("train/ct/lidc0314.nii.gz", "CT", "CT/ct0.nii.gz"),
        ("train/mr_thick/oms01_t1w.nii.gz", "MR", "MR/mr0.nii.gz"),
        ("train/mr_thick/oms12_t1w.nii.gz", "MR", "MR/mr1.nii.gz"),
    ]
    (folder / "DATA").mkdir()
    with (folder / "DATA" / "MANIFEST.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "modality", "use"])
        for path, modality, source in rows:
            (folder / "DATA" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / source, folder / "DATA" / path)
            table.writerow([path, modality, "train; weights may ship"])
    (folder / "sizes.json").write_text('{"dot": {"blocks": 1, "layers": 1, "growth": 4, "features": 4}}')
    torch.manual_seed(0)
    tiny = SRNet(**{key.partition("::")[2]: value for key, value in NETWORK.items()}).state_dict()
    for name in ("tiny.pt", "OUT/stage1.pt", "OUT/stage2.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(tiny, folder / name)
    return folder


@pytest.fixture
def checkout(tmp_path, data) -> Path:
    """What `git clone` and `make setup` leave, with the data of the placeholders in it."""
    for name in ("tools", "studies", "benchmarks", "phantom", "thinslice", "deploy", "docs", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in ROOT.glob("requirements*.txt"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "constraints.txt").symlink_to(ROOT / "constraints.txt")
    shutil.copytree(BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".ready":
            (tmp_path / ".venv" / path.name).symlink_to(path)
    (tmp_path / ".venv" / ".ready").touch()
    for folder in (tmp_path, tmp_path / "bundle"):
        shutil.copytree(data, folder, dirs_exist_ok=True)
    return tmp_path


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """In a shell whose environment is active, with no path set."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def derived_series(checkout: Path) -> None:
    """``OUT/CASE``, as a batch of ``IN`` leaves it."""
    command = ".venv/bin/python -m monai.bundle run --config_file bundle/configs/batch_dicom.json --bundle_root bundle"
    result = run(f"{command} --dataset_dir IN --output_dir MADE {ids(RUN, '--{} {}')}", checkout)
    assert result.returncode == 0, result.stderr[-2000:]
    (nifti,) = (checkout / "MADE").glob("*/*_sr.nii.gz")
    shutil.copytree(nifti.parent, checkout / "OUT" / "CASE")
    shutil.copyfile(nifti, checkout / "OUT" / "CASE" / "CASE_sr.nii.gz")


BEFORE = {"dicom_conformance.md": derived_series}


# what a page says whose commands are many, or for real scans and a long time
LONG_PAGE = "`make test-docs` runs the commands of this page on small data; `make test` does not"
needs_all_pages = pytest.mark.skipif("ALL_PAGES" not in os.environ, reason="make test-docs runs the long pages")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[needs_all_pages] if LONG_PAGE in page.read_text() else [])
        for page in PAGES
        if commands(page.read_text())
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_command_of_a_page_runs(page, checkout):
    folder = checkout / "bundle" if BUNDLE in page.parents else checkout
    BEFORE.get(page.name, lambda _: None)(checkout)
    failed = []
    for line in commands(page.read_text()):
        if (command := small(line)) is None:
            continue
        result = run(command, folder)
        print(f"{result.returncode}: {command}")
        if result.returncode:
            failed.append(f"{line}\n    as: {command}\n{result.stdout[-500:]}\n{result.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)


def test_the_commands_of_a_page_are_found():
    """Blocks and text, in order; nothing after a line that says it is not run."""
    text = (
        "`make smoke` and\n```sh\nmake a \\\n  B=1\n# why\npython -m b\n"
        f"{NOT_RUN}needs a cluster\nsrun c\n```\n`make d E=1`\n```\nmake no\n```\n```sh\n{NOT_RUN}slow\nmake f\n```\n"
        f"```sh\nmake g\nmake h {NOT_RUN}here\n```\n```bash\n#!/bin/bash\n{NOT_RUN}x\nmake i\n```\n"
    )
    assert commands(text) == ["make a B=1", "python -m b", "make d E=1", "make g"]


def test_every_reason_for_not_running_a_command_is_stated():
    for page in PAGES:
        for reason in re.findall(f"{NOT_RUN}(.*)", page.read_text()):
            assert len(reason.split()) >= 2, f"{page.name}: {reason}"


def test_targets_that_the_pages_name_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.M))
        assert named <= targets, f"{page.name}: {named - targets}"


def test_modules_that_the_pages_name_exist():
    for page in PAGES:
        for room, module in re.findall(r"-m (tools|studies|benchmarks)\.(\w+)", page.read_text()):
            assert (ROOT / room / f"{module}.py").is_file(), f"{page.name}: {room}.{module}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
