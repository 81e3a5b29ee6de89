# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes does what one machine does, and whichever of them is killed, nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading

import numpy as np
import psutil
import pytest
from scripts.batch.isolation import Team
from scripts.dicom.discovery import discover

pytest.importorskip("distributed", reason="the extra for clusters is not installed")

from scripts.batch.cluster import Cluster

from benchmarks.archive import Archive, StandIn, StandInIndex
from benchmarks.cluster import LocalCluster
from phantom.dicom import write_series
from tests.batch import trouble
from tests.batch.conftest import ENVIRONMENT, read_report, thick_series
from tests.batch.test_resume import contents
from tests.batch.test_trouble import by_source, wait_for
from tests.conftest import LIGHT
from tests.dicom.synthetic import drop


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(LIGHT))
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
            assert not psutil.wait_procs(children, timeout=120)[1]  # its processes end with it
            cluster.start_worker()
        elif victim == "scheduler":
            stop_for_good(cluster.scheduler)
            cluster.start_scheduler()
            for worker in cluster.workers:  # they end with their scheduler, as a service they start again
                worker.wait(120)
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


class Deadly(StandIn):
    """Takes the worker that it is in down with one series, as what kills a whole machine would."""

    def do(self, task):
        if task.series.key == self.ids["deadly"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(task)


class DeadlyArchive(Archive):
    team = Deadly


@pytest.fixture
def archive(tmp_path, cluster):
    """A batch of stand-ins on the cluster: ``kind, number of series, ids -> batch``."""
    write_series(tmp_path / "in", np.zeros((8, 8, 4), int), np.diag([1, 1, 5, 1.0]))
    (one,) = discover(tmp_path / "in").series

    def make(kind, series, **ids):
        return kind(
            bundle_root=".", dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), inference_configs=[],
            inference={"series_seconds": 1, "speed": 0, **ids}, discover=lambda root, path: StandInIndex(one, series),
            executor="dask", scheduler=cluster.address, pictures=0,
        )  # fmt: skip

    return make


@pytest.mark.slow
def test_a_series_that_kills_its_workers_is_given_up_and_the_rest_go_on(tmp_path, cluster, archive):
    batch = archive(DeadlyArchive, 30, deadly=StandInIndex(None, 30).key(4))
    over = threading.Event()
    deaths = 0

    def keep_up():  # as a service manager would
        nonlocal deaths
        while not over.wait(0.2):
            for worker in [one for one in cluster.workers if one.poll() is not None]:
                deaths += 1
                cluster.workers.remove(worker)
                cluster.start_worker()

    keeper = threading.Thread(target=keep_up)
    keeper.start()
    try:
        assert batch.run() == 3
    finally:
        over.set()
        keeper.join()
    records = {one["series"]: one for one in read_report(tmp_path / "out")["series"]}
    assert len(records) == 30
    given_up = records.pop(StandInIndex(None, 30).key(4))
    assert (given_up["status"], given_up["reason"]) == ("failed", "WORKER_DIED")
    assert "KilledWorker" in given_up["message"]
    assert deaths >= 3
    assert {one["reason"] for one in records.values()} <= {None, "CONSTANT"}  # stand-ins refuse one in a hundred


@pytest.mark.slow
def test_a_scheduler_that_does_not_come_back_interrupts_the_rest(tmp_path, cluster, archive, monkeypatch):
    monkeypatch.setattr(Cluster.__init__, "__defaults__", (Team, 3))  # seconds of patience
    batch = archive(Archive, 40)
    note, noted = batch._note, []

    def kill_after_five(record):
        note(record)
        noted.append(record)
        if len(noted) == 5:
            stop_for_good(cluster.scheduler)

    monkeypatch.setattr(batch, "_note", kill_after_five)
    assert batch.run() == 3
    report = read_report(tmp_path / "out")
    assert len(report["series"]) == report["summary"]["series"] == 40
    assert report["summary"]["reasons"]["INTERRUPTED"] == report["summary"]["failed"] >= 30
    assert report["summary"]["ok"] >= 4


def test_a_scheduler_that_is_not_there_is_said_at_once(tmp_path, batch_here, capsys):
    thick_series(tmp_path / "in")
    assert batch_here(executor="dask") == 2
    assert "scheduler must be an address" in capsys.readouterr().err
    assert batch_here(executor="ray") == 2
    assert "executor must be one of" in capsys.readouterr().err
