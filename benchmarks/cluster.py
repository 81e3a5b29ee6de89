# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster on this machine. Each part is a separate process, which can be killed like a machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tools.run_bundle import BUNDLE, ROOT

__all__ = ["LocalCluster"]


class LocalCluster:
    """A scheduler and workers, as ``dask scheduler`` and ``dask worker`` start them.

    Args:
        folder: folder for logs and for the files of Dask.
        workers: number of workers at the start.
        threads: number of series that each worker processes at a time.
    """

    def __init__(self, folder: Path, workers: int = 2, threads: int = 1) -> None:
        self.folder = folder
        self.threads = threads
        self.workers: list[subprocess.Popen] = []
        self.started: list[subprocess.Popen] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.start_scheduler()
        self._wait_for_scheduler(60)
        for _ in range(workers):
            self.start_worker()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.started:
            process.kill()
            process.wait()

    def start_scheduler(self) -> None:
        """Start the scheduler, always at the same address."""
        words = ("--host", "127.0.0.1", "--port", str(self.port), "--dashboard-address", "127.0.0.1:0")
        self.scheduler = self._start("dask_scheduler", *words)

    def _wait_for_scheduler(self, seconds: float) -> None:
        """Wait until the scheduler listens, so that its start does not count."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self.scheduler.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the scheduler must listen within {seconds:g} s, but did not; see {self.folder}")
            time.sleep(0.1)

    def start_worker(self) -> subprocess.Popen:
        """Start one more worker."""
        words = ("--no-nanny", "--nthreads", str(self.threads), "--no-dashboard", "--memory-limit", "0")
        folder = ("--local-directory", str(self.folder / "dask"))
        self.workers.append(self._start("dask_worker", self.address, *words, *folder))
        return self.workers[-1]

    def _start(self, program: str, *words: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",  # for NumPy and SciPy; the batch sets the threads of PyTorch by an id
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(BUNDLE), os.environ.get("PYTHONPATH", "")]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
        }
        with (self.folder / f"{len(self.started)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", *words],
                cwd=self.folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process
