# SPDX-License-Identifier: Apache-2.0
"""Run the batch on the machines of a `Dask <https://distributed.dask.org>`_ cluster that is already running.

Dask distributes the tasks, gives them to another worker when one dies, and shows the progress in its dashboard. Each
worker has its own :class:`~.isolation.Team`, so that a series cannot harm it.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from distributed import Client, KilledWorker, Worker, WorkerPlugin, get_worker

from ..dicom.index import pack, unpack
from .isolation import RETRIES, Team
from .report import SeriesRecord
from .tasks import Task, WorkerSpec

__all__ = ["Cluster"]

NAME = "series"
ASK_SECONDS = 2.0


class Cluster:
    """The executor for many machines; :class:`~.isolation.Team` is the one for a single machine.

    Args:
        address: address of the scheduler.
        spec: settings of the worker processes.
        stage: folder in which each process makes its own; on a file system that all machines share.
        team: class that does the work on each worker.
        timeout_seconds: how long to wait for the scheduler to answer.

    Raises:
        OSError: if the scheduler does not answer.
        RuntimeError: if a worker cannot start processes.
    """

    shared_deaths: tuple[type[Exception], ...] = (KilledWorker,)

    def __init__(
        self,
        address: str,
        spec: WorkerSpec,
        stage: Path,
        team: Callable[[WorkerSpec, int, Path], Team] = Team,
        timeout_seconds: float = 60,
    ) -> None:
        self.client = Client(address, timeout=timeout_seconds, set_as_default=False)
        self.client.register_plugin(_Series(spec, stage, team), name=NAME)
        self.executor = self.client.get_executor(pure=False, retries=RETRIES)
        self.asked, self.threads = float("-inf"), 0
        logging.getLogger(type(self).__name__).info("dashboard: %s", self.client.dashboard_link)

    @property
    def size(self) -> int:
        """Number of series that can be under way; it changes as workers join and leave."""
        if time.monotonic() - self.asked > ASK_SECONDS:
            self.asked = time.monotonic()
            self.threads = int(self.client.scheduler_info(n_workers=0).get("total_threads", 0))
        return max(1, self.threads)

    def submit(self, task: Task) -> Future[SeriesRecord]:
        """Give a series to any worker; its future is cancelled if the scheduler is lost."""
        if self.client.status == "running":
            # packed, because Dask keeps the last thousand messages to each worker
            return self.executor.submit(_do, pack(task))
        lost: Future[SeriesRecord] = Future()
        lost.cancel()
        lost.set_running_or_notify_cancel()
        return lost

    def stop(self) -> None:
        """End all processes and disconnect."""
        with suppress(OSError):  # the scheduler may stop at the same time
            if self.client.status == "running":
                self.client.unregister_worker_plugin(NAME)
            self.client.close(timeout=10)


class _Series(WorkerPlugin):
    """Plugin that keeps a team on every worker, including those that join later, until the run ends."""

    def __init__(self, spec: WorkerSpec, stage: Path, team: Callable[[WorkerSpec, int, Path], Team]) -> None:
        self.make = lambda size: team(spec, size, stage)

    def setup(self, worker: Worker) -> None:
        if multiprocessing.current_process().daemon:
            raise RuntimeError(
                "a Dask worker must be able to start processes, but is a daemon; start it with --no-nanny, or with "
                "DASK_DISTRIBUTED__WORKER__DAEMON=False"
            )
        self.team = self.make(worker.state.nthreads)

    def teardown(self, worker: Worker) -> None:
        self.team.stop()


def _do(content: bytes) -> SeriesRecord:
    plugin = get_worker().plugins[NAME]
    assert isinstance(plugin, _Series)
    return plugin.team.do(unpack(Task, content))
