# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a worker stays in a worker; what is wrong with the run stops it before the first series."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.batch import trouble
from tests.batch.conftest import ENVIRONMENT, read_report, thick_series

SPACING = {"good1": 5, "hang": trouble.HANG, "crash": trouble.CRASH, "eat": trouble.EAT, "raise": trouble.RAISE}


def by_source(output_dir):
    return {record["source"]: record for record in read_report(output_dir)["series"]}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_dies_or_eats_all_memory_costs_one_series(tmp_path, batch_here, troubled, workers):
    for name, spacing in {**SPACING, "good2": 5}.items():
        thick_series(tmp_path / "in" / name, seed=name, spacing=(1.0, 1.2, spacing))
    code = batch_here(inference_configs=troubled, timeout_seconds=15, memory_limit_gib=1.5, workers=workers)
    assert code == 3
    found = {name: (record["status"], record["reason"]) for name, record in by_source(tmp_path / "out").items()}
    assert found == {
        "good1": ("ok", None),
        "good2": ("ok", None),
        "hang": ("timeout", "TIMEOUT"),
        "crash": ("failed", "WORKER_DIED"),
        "eat": ("oom", "OOM"),
        "raise": ("failed", "INTERNAL"),
    }
    assert "quotes" not in (tmp_path / "out" / "report.json").read_text()
    assert "SIGSEGV" in by_source(tmp_path / "out")["crash"]["message"]
    good = {record["series"] for record in by_source(tmp_path / "out").values() if record["status"] == "ok"}
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {".jobs", *good}


def test_the_limit_holds_for_resident_memory_where_address_space_does_not(tmp_path, batch_here, troubled, monkeypatch):
    """Where CUDA reserves address space only the watch on resident memory can end a worker."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    thick_series(tmp_path / "in", spacing=(1.0, 1.2, trouble.EAT))
    assert batch_here(inference_configs=troubled, memory_limit_gib=0.2) == 3  # below what a loaded worker holds
    assert by_source(tmp_path / "out")["."]["status"] == "oom"


@pytest.mark.parametrize(
    ("where", "ids", "words"),
    [
        ("in", {}, "apart"),
        ("in/out", {}, "apart"),
        (".", {}, "apart"),
        ("link/out", {}, "apart"),
        ("out", {"dataset_dir": "missing"}, "must be a folder"),
        ("out", {"workers": 0}, "workers must be"),
        ("out", {"timeout_seconds": 0}, "timeout_seconds must be"),
        ("out", {"ckpt_path": "missing.pt"}, "missing.pt"),
        ("out", {"inference::engine": "magic"}, "engine must be one of"),
        ("out", {"network_def::blocks": 2}, "bare state dict"),
        ("out", {"free_space_factor": 1e12}, "free space"),
    ],
)
def test_a_wrong_setting_is_said_before_any_series(tmp_path, batch_here, capsys, monkeypatch, where, ids, words):
    monkeypatch.chdir(tmp_path)
    thick_series(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    assert batch_here(output_dir=where, **ids) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert len(said.splitlines()) == 1
    new = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - set(before)}
    assert new <= {"out", "out/.lock", "out/.index.sqlite"}


def test_nothing_to_process_is_said_so(tmp_path, batch_here, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    assert batch_here() == 4
    report = read_report(tmp_path / "out")
    assert (report["summary"]["exit_code"], report["series"]) == (4, [])
    assert report["files"][0]["reason"] == "NOT_AN_IMAGE"
    assert "nothing to process" in capsys.readouterr().err


def test_an_output_folder_in_use_is_left_alone(tmp_path, batch_here, capsys):
    thick_series(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert batch_here() == 2
    assert "another run" in capsys.readouterr().err
    assert batch_here() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_cleanly(tmp_path, batch_command, troubled, number, code):
    for i in range(4):
        thick_series(tmp_path / "in" / str(i), seed=str(i), spacing=(1.0, 1.2, trouble.SLOW if i else trouble.HANG))
    command = batch_command(inference_configs=str(troubled), workers=2)
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, start_new_session=True) as process:
        try:
            wait_for(lambda: list((tmp_path / "out").glob("[0-9a-f]*/record.json")))
            os.killpg(process.pid, number)  # as a terminal does: workers get it too
            assert process.wait(120) == code
        finally:
            process.kill()
    report = read_report(tmp_path / "out")
    assert report["summary"]["exit_code"] == code
    assert {(r["status"], r["reason"]) for r in report["series"]} >= {("ok", None), ("failed", "INTERRUPTED")}
    assert not list((tmp_path / "out").glob(".staging*"))


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_looking_through_the_tree_ends_the_run_at_once(tmp_path, batch_here, number):
    thick_series(tmp_path / "in")
    before = signal.getsignal(number)

    def kill():
        wait_for(lambda: signal.getsignal(number) is not before)  # until then, the signal would end the tests
        time.sleep(1)
        os.kill(os.getpid(), number)

    threading.Thread(target=kill).start()
    started = time.monotonic()
    assert batch_here(stable_seconds=300) == 128 + number
    assert time.monotonic() - started < 200
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", ".index.sqlite"}
    assert batch_here() == 0  # the lock is free


def test_a_full_disk_costs_one_series_and_leaves_nothing(tmp_path, batch_here, troubled):
    """A limit on the size of a file stands for the full disk: writing fails in the middle."""
    thick_series(tmp_path / "in" / "small", seed="small")
    thick_series(tmp_path / "in" / "full", seed="full", spacing=(1.0, 1.2, trouble.FULL))
    assert batch_here(inference_configs=troubled, series_per_worker=1) == 3
    found = by_source(tmp_path / "out")
    assert {name: record["status"] for name, record in found.items()} == {"small": "ok", "full": "failed"}
    assert found["full"]["reason"] == "UNWRITABLE"
    assert not (tmp_path / "out" / found["full"]["series"]).exists()
    assert found["full"]["outputs"] == {}
