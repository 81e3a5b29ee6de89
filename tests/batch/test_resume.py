# SPDX-License-Identifier: Apache-2.0
"""A second run does what the first has not done, and nothing else; a killed one leaves nothing half done."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import numpy as np
import psutil
import pytest

from tests.batch import trouble
from tests.batch.conftest import ENVIRONMENT, read_report, thick_series
from tests.batch.test_trouble import wait_for


def contents(output_dir):
    """Every result by name, without what measures the run itself."""
    found = {}
    for path in output_dir.rglob("*"):
        if path.is_file() and path.parent != output_dir:
            data = path.read_bytes()
            if path.name == "record.json":
                record = json.loads(data)
                del record["seconds"], record["peak_memory_bytes"]
                data = json.dumps(record).encode()
            found[str(path.relative_to(output_dir))] = data
    return found


def statuses(output_dir):
    return {record["source"]: record["status"] for record in read_report(output_dir)["series"]}


@pytest.mark.slow
def test_done_and_unchanged_is_skipped_and_all_else_is_done_again(tmp_path, batch_here):
    for name in ("a", "b", "c", "d"):
        thick_series(tmp_path / "in" / name, seed=name)
    assert batch_here() == 0
    first = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    keys = {record["source"]: record["series"] for record in read_report(tmp_path / "out")["series"]}
    assert batch_here() == 0
    assert statuses(tmp_path / "out") == dict.fromkeys("abcd", "skipped")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    # a slice is one grey level brighter; a result is damaged; a result is gone
    victim = next((tmp_path / "in" / "b").iterdir())
    data = bytearray(victim.read_bytes())
    data[-500] ^= 1
    victim.write_bytes(data)
    damaged = tmp_path / "out" / keys["c"] / f"{keys['c']}_sr.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.rmtree(tmp_path / "out" / keys["d"])
    assert batch_here() == 0
    assert statuses(tmp_path / "out") == {"a": "skipped", "b": "ok", "c": "ok", "d": "ok"}
    second = contents(tmp_path / "out")
    differing = {name.split("/")[0] for name in first if first[name] != second[name] and not name.startswith(".jobs")}
    assert differing == {keys["b"]}
    assert batch_here(**{"inference::data_consistency": "off"}) == 0
    assert set(statuses(tmp_path / "out").values()) == {"ok"}


def test_a_copy_that_turns_up_later_changes_nothing(tmp_path, batch_here):
    thick_series(tmp_path / "in" / "a")
    assert batch_here() == 0
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "in" / "copy")
    assert batch_here() == 0
    (record,) = read_report(tmp_path / "out")["series"]
    assert (record["status"], record["n_files"], record["source"]) == ("skipped", 18, "a")


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 1, 3])
def test_killed_at_once_and_started_again_ends_as_if_never_killed(tmp_path, batch_command, batch_here, troubled, done):
    rng = np.random.default_rng(done)
    for i in range(5):
        thick_series(tmp_path / "in" / str(i), seed=str(i), spacing=(1.0, 1.2, trouble.SLOW))
    command = batch_command(inference_configs=str(troubled))
    out = tmp_path / "out"
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT) as process:
        try:
            wait_for(lambda: len(list(out.glob("[0-9a-f]*/record.json"))) >= done and list(out.glob(".staging*/*")))
            time.sleep(float(rng.uniform(0, 0.6)))  # anywhere within a series
            team = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
    assert not psutil.wait_procs(team, timeout=120)[1]  # workers and their server end with the runner
    final = [path for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert all((path / "record.json").is_file() for path in final)
    assert not (out / "report.json").exists() or len(final) == 5
    before = contents(out)
    assert batch_here(inference_configs=troubled) == 0
    assert len(statuses(out)) == 5
    after = contents(out)
    for name, data in before.items():
        if not name.startswith("."):
            assert after[name] == data
    assert not list(out.glob(".staging*"))
    reference = tmp_path / "reference"
    shutil.copytree(out / ".jobs", reference / ".jobs")  # the moments of derivation
    assert batch_here(inference_configs=troubled, output_dir=reference) == 0
    assert contents(reference) == after


@pytest.mark.slow
def test_a_worker_killed_in_mid_series_changes_nothing(tmp_path, batch_command, batch_here, troubled):
    for i in range(3):
        thick_series(tmp_path / "in" / str(i), seed=str(i), spacing=(1.0, 1.2, trouble.SLOW))
    out = tmp_path / "out"
    with subprocess.Popen(batch_command(inference_configs=str(troubled)), cwd=tmp_path, env=ENVIRONMENT) as process:
        try:
            wait_for(lambda: list(out.glob(".staging*/*/*")))  # a series has begun to write
            (server,) = [
                one for one in psutil.Process(process.pid).children() if "forkserver" in " ".join(one.cmdline())
            ]
            (worker,) = server.children()
            worker.kill()
            assert process.wait(240) == 0
        finally:
            process.kill()
    assert statuses(out) == dict.fromkeys("012", "ok")
    assert not list(out.glob(".staging*"))
    shutil.copytree(out / ".jobs", tmp_path / "reference" / ".jobs")  # the moments of derivation
    assert batch_here(inference_configs=troubled, output_dir=tmp_path / "reference") == 0
    assert contents(tmp_path / "reference") == contents(out)


@pytest.mark.slow
def test_who_does_a_series_does_not_change_it(tmp_path, batch_here):
    for i in range(4):
        thick_series(tmp_path / "in" / str(i), seed=str(i))
    assert batch_here(output_dir=tmp_path / "one") == 0
    shutil.copytree(tmp_path / "one" / ".jobs", tmp_path / "other" / ".jobs")
    assert batch_here(output_dir=tmp_path / "other", workers=2, series_per_worker=1) == 0
    assert contents(tmp_path / "other") == contents(tmp_path / "one")
