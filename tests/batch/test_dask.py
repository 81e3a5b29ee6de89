# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes does what one machine does, and whichever of them is killed, nothing is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess

import psutil
import pytest

from benchmarks.cluster import LocalCluster
from tests.batch import trouble
from tests.batch.conftest import ENVIRONMENT, read_report, thick_series
from tests.batch.test_resume import contents
from tests.batch.test_trouble import by_source, wait_for
from tests.dicom.synthetic import drop

pytest.importorskip("distributed", reason="the extra for clusters is not installed")


@pytest.fixture
def cluster(tmp_path):
    with LocalCluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.mark.slow
def test_a_cluster_does_what_one_machine_does(tmp_path, batch, batch_here, cluster, troubled):
    for name, spacing in (("a", 5), ("b", 5), ("c", 5), ("hang", trouble.HANG), ("crash", trouble.CRASH)):
        thick_series(tmp_path / "in" / name, seed=name, spacing=(1.0, 1.2, spacing))
    thick_series(tmp_path / "in" / "gap", seed="gap", edit=drop(3))
    ids = {"inference_configs": troubled, "timeout_seconds": 20}
    assert batch(executor="dask", scheduler=cluster.address, **ids).returncode == 3
    report = read_report(tmp_path / "out")
    assert report["summary"]["executor"] == "dask"
    assert not list((tmp_path / "out").glob(".staging*"))
    done = contents(tmp_path / "out")
    shutil.copytree(tmp_path / "out" / ".jobs", tmp_path / "local" / ".jobs")
    assert batch_here(output_dir=tmp_path / "local", **ids) == 3
    assert contents(tmp_path / "local") == done
    here, there = by_source(tmp_path / "local"), by_source(tmp_path / "out")
    assert {name: (one["status"], one["reason"], one["message"]) for name, one in here.items()} == {
        name: (one["status"], one["reason"], one["message"]) for name, one in there.items()
    }
    assert there["crash"]["reason"] == "WORKER_DIED"
    assert there["hang"]["reason"] == "TIMEOUT"
    assert "SIGSEGV" in there["crash"]["message"]


def stop_for_good(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "scheduler", "client"])
def test_kill_9_of_anything_loses_nothing(tmp_path, batch_command, batch_here, cluster, troubled, victim):
    for i in range(6):
        thick_series(tmp_path / "in" / str(i), seed=str(i), spacing=(1.0, 1.2, trouble.SLOW))
    out = tmp_path / "out"
    command = batch_command(inference_configs=str(troubled), executor="dask", scheduler=cluster.address)
    client = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT)
    try:
        wait_for(lambda: list(out.glob("[0-9a-f]*/record.json")) and list(out.glob(".staging*/*/*")), seconds=300)
        if victim == "worker":
            children = psutil.Process(cluster.workers[0].pid).children(recursive=True)
            stop_for_good(cluster.workers[0])
            assert not psutil.wait_procs(children, timeout=60)[1]  # its processes end with it
            cluster.start_worker()
        elif victim == "scheduler":
            stop_for_good(cluster.scheduler)
            cluster.start_scheduler()
            for worker in cluster.workers:  # they end with their scheduler, as a service they start again
                worker.wait(60)
            cluster.start_worker()
            cluster.start_worker()
        else:
            stop_for_good(client)
            client = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT)
        assert client.wait(500) == 0
    finally:
        client.kill()
    report = read_report(out)
    assert len(report["series"]) == 6
    assert not list(out.glob(".staging*"))
    (tmp_path / "reference").mkdir()
    shutil.copytree(out / ".jobs", tmp_path / "reference" / ".jobs")  # the moments of derivation
    assert batch_here(inference_configs=troubled, output_dir=tmp_path / "reference") == 0
    assert contents(tmp_path / "reference") == contents(out)


def test_a_scheduler_that_is_not_there_is_said_at_once(tmp_path, batch_here, capsys):
    thick_series(tmp_path / "in")
    assert batch_here(executor="dask") == 2
    assert "scheduler must be an address" in capsys.readouterr().err
    assert batch_here(executor="ray") == 2
    assert "executor must be one of" in capsys.readouterr().err
