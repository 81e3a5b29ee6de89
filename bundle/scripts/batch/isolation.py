# SPDX-License-Identifier: Apache-2.0
"""Worker processes that isolate series from each other: a fatal series ends one process and nothing else.

`pebble <https://pebble.readthedocs.io>`_ starts and replaces the processes, ends those that take too long and reports
how a process died. This module adds three things: a process ends with its parent, its memory is limited, and it writes
no log.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing.context import BaseContext
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import psutil
import torch
from pebble import ProcessExpired, ProcessFuture, ProcessPool
from tqdm import tqdm

from ..orphans import end_with_starter
from ..reasons import Reason
from .report import SeriesRecord, Status
from .tasks import Task, WorkerSpec

if TYPE_CHECKING:
    from .series import Pipeline

__all__ = ["RETRIES", "CannotStartError", "Team", "WorkerDiedError", "fork_server"]

RETRIES = 2  # a series that kills three processes is given up

PRELOAD = ["monai.bundle", "monai.engines", "monai.inferers", "torch", "pydicom"]
WATCH_SECONDS = 0.1
EXIT_MEMORY, EXIT_START = 70, 71


def fork_server() -> BaseContext:
    """Context of the fork server, which preloads all libraries; must be called before anything else starts it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class CannotStartError(Exception):
    """A process could not load the model or the config; the message says why."""


class WorkerDiedError(Exception):
    """A process died while it worked on a series; the message says how."""


class Team:
    """Processes that do one series at a time each and are kept for the next.

    Args:
        spec: settings of the processes.
        size: number of processes.
        stage: folder in which each process makes its own; it must exist.
    """

    shared_deaths: tuple[type[Exception], ...] = ()  # a death here is always the series' own doing

    def __init__(self, spec: WorkerSpec, size: int, stage: Path) -> None:
        self.size = size
        self.members = [_Isolated(spec, stage / uuid.uuid4().hex) for _ in range(size)]
        self.free: SimpleQueue[_Isolated] = SimpleQueue()
        for member in self.members:
            self.free.put(member)
        self.threads = ThreadPoolExecutor(size)

    def submit(self, task: Task) -> Future[SeriesRecord]:
        """Run :meth:`do` as soon as a process is free; if the process dies, try again up to ``RETRIES`` times."""
        return self.threads.submit(self._insist, task)

    def _insist(self, task: Task) -> SeriesRecord:
        for _ in range(RETRIES):
            with suppress(WorkerDiedError):
                return self.do(task)
        return self.do(task)

    def do(self, task: Task) -> SeriesRecord:
        """Do one series and wait for its record.

        Raises:
            CannotStartError: if no process could be started for it.
            WorkerDiedError: if its process died.
            CancelledError: if :meth:`stop` was called.
        """
        member = self.free.get()
        try:
            return member.do(task)
        finally:
            self.free.put(member)

    def stop(self) -> None:
        """Kill all processes at once."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for member in self.members:
            member.end()
        self.threads.shutdown()


class _Isolated:
    """One process, which is replaced when it has ended."""

    def __init__(self, spec: WorkerSpec, stage: Path) -> None:
        self.spec = spec
        self.stage = stage
        self.pool: ProcessPool | None = None
        self.future: ProcessFuture | None = None
        self.ended = False

    def do(self, task: Task) -> SeriesRecord:
        if self.pool is not None and not self.pool.active:  # the process was killed between two series
            self._drop()
        if self.pool is None:
            context = fork_server()
            # a pool of one, because the processes of a larger pool share locks, and a killed process may hold one
            self.pool = ProcessPool(1, self.spec.series_per_worker, _start, (self.spec, self.stage), context)
        try:
            self.future = self.pool.schedule(_do, (task,), timeout=self.spec.timeout_seconds)
            if self.ended:
                self.future.cancel()
            record = self.future.result()
        except TimeoutError:
            message = f"a series must be done within {self.spec.timeout_seconds:g} s; raise timeout_seconds"
            record = replace(task.record, status=Status.TIMEOUT, reason=str(Reason.TIMEOUT), message=message)
        except ProcessExpired as error:
            if error.exitcode != EXIT_MEMORY:
                raise WorkerDiedError(_ending(error.exitcode)) from None
            limit = (self.spec.memory_limit_bytes or 0) / 2**30
            message = f"a worker must stay below {limit:g} GiB; raise memory_limit_gib"
            record = replace(task.record, status=Status.OOM, reason=str(Reason.OOM), message=message)
        except CannotStartError:
            self._drop()
            raise
        except (BrokenProcessPool, RuntimeError) as error:
            self._drop()
            raise CannotStartError("the process died or hung while it loaded the model") from error
        finally:
            shutil.rmtree(self.stage, ignore_errors=True)
            if self.ended:
                self._drop()
        if record.status == Status.OOM:
            self._drop()
        return record

    def end(self) -> None:
        """Kill the process; the series that is under way raises ``CancelledError``."""
        self.ended = True
        if self.future is not None:
            self.future.cancel()
        self._drop()

    def _drop(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.stop()
            pool.join()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# --- inside the process

_pipeline: Pipeline | CannotStartError
_busy = threading.Event()


def _start(spec: WorkerSpec, stage: Path) -> None:
    """Prepare a process. An error is raised by its first task, because only tasks return anything."""
    global _pipeline
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _be_quiet()
    ready = threading.Event()
    me = psutil.Process()

    def check(seconds: float) -> None:
        if not ready.is_set() and seconds > spec.timeout_seconds:
            os._exit(EXIT_START)
        if spec.memory_limit_bytes and _busy.is_set() and me.memory_info().rss > spec.memory_limit_bytes:
            os._exit(EXIT_MEMORY)

    end_with_starter(check, WATCH_SECONDS)
    tqdm.set_lock(threading.RLock())  # the default is a semaphore, which a killed process would leave behind
    try:
        from .series import Pipeline  # not at the top: the process that distributes the work does not need MONAI

        if spec.threads:
            torch.set_num_threads(spec.threads)
        _pipeline = Pipeline(spec, stage)
    except BaseException as error:
        _pipeline = CannotStartError(_cause(error))
    else:
        if spec.memory_limit_bytes is not None and not torch.cuda.is_initialized():
            # CUDA reserves hundreds of GiB of address space, so there only resident memory is limited
            limit = me.memory_info().vms + spec.memory_limit_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    ready.set()


def _do(task: Task) -> SeriesRecord:
    if isinstance(_pipeline, CannotStartError):
        raise _pipeline
    from .series import process

    _busy.set()
    try:
        return process(_pipeline, task)
    finally:
        _busy.clear()


def _be_quiet() -> None:
    """Silence all logs: libraries quote what they read, and no patient data may reach a log."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    logging.disable(logging.CRITICAL)


def _cause(error: BaseException) -> str:
    """Message of an exception from before any patient data was read, without MONAI's wrapping."""
    while error.__cause__ is not None and str(error).startswith("Failed to instantiate"):
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
