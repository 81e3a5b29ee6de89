# SPDX-License-Identifier: Apache-2.0
"""The batch: run the inference on every series of a folder tree, each in isolation, and account for every one."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..dicom.discovery import RefusedSeries, SeriesCandidate
from ..dicom.index import Index
from ..dicom.web import fetch_series
from ..reasons import Reason
from .html import write_html
from .isolation import CannotStartError, Team, WorkerDiedError, fork_server
from .report import Records, SeriesRecord, Status, exit_code, summary_of, write_report
from .staging import STAGING, BatchUsageError, check_apart, check_space, locked, sweep
from .tasks import Task, WorkerSpec

__all__ = ["BatchRunner", "Executor"]

INDEX = ".index.sqlite"
EXECUTORS = ("local", "dask")
POLL_SECONDS = 0.5


class Executor(Protocol):
    """Interface of what does the series: :class:`~.isolation.Team` on one machine, :class:`~.cluster.Cluster` on many.

    Attributes:
        shared_deaths: exceptions of a series that another series, done at the same time, may have caused.
    """

    shared_deaths: tuple[type[Exception], ...]

    @property
    def size(self) -> int:
        """Number of series at a time."""

    def submit(self, task: Task) -> Future[SeriesRecord]:
        """Start one series."""

    def stop(self) -> None:
        """Stop, and start no further series."""


class BatchRunner:
    """Find all series, distribute them, watch over them, and write the report.

    Args:
        bundle_root: the bundle.
        dataset_dir: folder tree of DICOM files; nothing is ever written to it.
        output_dir: folder apart from it, for one folder per series and the reports.
        inference_configs: config files of the bundle's inference, merged in order.
        inference: overrides of their ids; nested dictionaries reach nested ids.
        discover: function from folder and SQLite file to :class:`~scripts.dicom.index.Index`.
        dicomweb_url: fill ``dataset_dir`` from this server first.
        executor: ``local``, or ``dask`` for a cluster that already runs.
        scheduler: address of the cluster's scheduler.
        workers: number of processes of the local executor.
        threads_per_worker: torch threads of each process; ``None`` divides the processor evenly.
        series_per_worker: number of series after which a worker is replaced.
        timeout_seconds: limit for one series, and for a worker to become ready.
        memory_limit_gib: limit on the resident memory of a worker, and on what it may allocate in addition to the
            loaded model; ``None`` sets no limit.
        free_space_factor: bytes of free space required per byte of input.
        pictures: number of slices per plane in the report; 0 makes none.
        results_per_page: number of series with a result on one page of ``report.html``.
        lines_per_page: number of series without a result on one page.
        report_json_most: the most series, or files of no series, that ``report.json`` lists; if there are more, only
            the tables list them.
        progress: show a progress bar.
    """

    team = Team

    def __init__(
        self,
        bundle_root: str,
        dataset_dir: str,
        output_dir: str,
        inference_configs: Sequence[str],
        inference: Mapping[str, Any],
        discover: Callable[[Path, Path], Index],
        dicomweb_url: str | None = None,
        executor: str = "local",
        scheduler: str | None = None,
        workers: int = 1,
        threads_per_worker: int | None = None,
        series_per_worker: int = 20,
        timeout_seconds: float = 3600,
        memory_limit_gib: float | None = None,
        free_space_factor: float = 24,
        pictures: int = 9,
        results_per_page: int = 25,
        lines_per_page: int = 500,
        report_json_most: int = 10000,
        progress: bool = True,
    ) -> None:
        self.dataset_dir = Path(dataset_dir)
        self.output_dir = Path(output_dir)
        self.discover = discover
        self.dicomweb_url = dicomweb_url
        self.executor = executor
        self.scheduler = scheduler
        self.workers = workers
        self.free_space_factor = free_space_factor
        self.results_per_page = results_per_page
        self.lines_per_page = lines_per_page
        self.report_json_most = report_json_most
        self.progress = progress
        self.spec = WorkerSpec(
            configs=tuple(str(Path(path).resolve()) for path in inference_configs),
            ids=dict(_flat(inference)),
            bundle_root=str(Path(bundle_root).resolve()),
            pictures=pictures,
            threads=threads_per_worker or (max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None),
            timeout_seconds=timeout_seconds,
            series_per_worker=series_per_worker,
            memory_limit_bytes=None if memory_limit_gib is None else int(memory_limit_gib * 2**30),
        )
        self.signal: int | None = None
        self.working = False  # once true, a signal is noted and the report is still written
        self.able = False  # whether a process has become ready
        self.records = Records()
        self.log = logging.getLogger(type(self).__name__)

    def run(self) -> int:
        """Process everything; an error of a series never raises.

        Returns:
            0 all done; 3 some series refused, failed, timed out or out of memory; 2 usage, config or model error
            before any series; 4 nothing to process; 130 and 143 interrupted.
        """
        with self._signals():
            try:
                self._check_settings()
                self._fetch()
                check_apart(self.dataset_dir, self.output_dir)
                with locked(self.output_dir):
                    sweep(self.output_dir)
                    (self.output_dir / "report.json").unlink(missing_ok=True)  # a killed run must not leave an old one
                    return self._run()
            except BatchUsageError as error:
                print(error, file=sys.stderr)
                return 2

    def _run(self) -> int:
        started = datetime.now(UTC)
        clock = time.perf_counter()
        fork_server()  # before discovery, which may start it too
        self.index = self.discover(self.dataset_dir, self.output_dir / INDEX)
        self.working = True
        if count := self.index.count():
            self._check_space()
            self._process(count)
        for series in self.index.refused():
            self.records.add(self._refused(series))
        left_out = Counter(str(file.error.reason) for file in self.index.left_out())
        code = exit_code(self.records, self.signal)
        facts = {
            "started_at": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "executor": self.executor,
        }
        summary = summary_of(self.records, left_out, facts, code)
        write_html(
            self.output_dir, summary, self.records, dict(sorted(left_out.items())), self.results_per_page,
            self.lines_per_page,
        )  # fmt: skip
        write_report(self.output_dir, summary, self.records, self._left_out, self.report_json_most)
        self._say(code)
        self.index.close()
        return code

    def _fetch(self) -> None:
        if self.dicomweb_url is not None:
            try:
                number = fetch_series(self.dicomweb_url, self.dataset_dir)
            except (OSError, ModuleNotFoundError) as error:
                raise BatchUsageError(f"dicomweb_url must be a server that answers, got {error}; correct it") from error
            self.log.info("%d series fetched", number)

    def _check_settings(self) -> None:
        for name, value in (("workers", self.workers), ("series_per_worker", self.spec.series_per_worker)):
            if not isinstance(value, int) or value < 1:
                raise BatchUsageError(f"{name} must be a whole number >= 1, got {value!r}; correct the id")
        if self.spec.timeout_seconds <= 0:
            raise BatchUsageError(f"timeout_seconds must be > 0, got {self.spec.timeout_seconds}; correct the id")
        if self.executor not in EXECUTORS:
            raise BatchUsageError(f"executor must be one of {EXECUTORS}, got {self.executor!r}; correct the id")
        if (self.executor == "dask") != (self.scheduler is not None):
            raise BatchUsageError(
                f"scheduler must be an address with executor dask and null with local, got {self.scheduler}; correct it"
            )

    def _check_space(self) -> None:
        needed = sum(size for key, size in self.index.sizes() if not (self.output_dir / key).exists())
        check_space(self.output_dir, int(needed * self.free_space_factor))

    # --- before any pixel is read

    def _source(self, files: Sequence[Path]) -> str:
        """Folder of a series relative to ``dataset_dir``."""
        return os.path.commonpath([self.index.place_of(path).parent for path in files]) or "."

    def _refused(self, series: RefusedSeries) -> SeriesRecord:
        return SeriesRecord(
            series=series.key,
            source=self._source(series.files),
            status=Status.REFUSED,
            reason=str(series.error.reason),
            message=series.error.message,
            n_files=len(series.files),
        )

    def _left_out(self) -> Iterator[dict[str, str]]:
        for file in self.index.left_out():
            path = self.index.place_of(file.path)
            yield {"path": str(path), "reason": str(file.error.reason), "message": file.error.message}

    # --- processing

    def _process(self, count: int) -> None:
        """Yield the record of every series: its result, or the reason why it has none."""
        stage = self.output_dir / f"{STAGING}-{uuid.uuid4().hex}"
        try:
            stage.mkdir(mode=0o700)
        except OSError as error:
            raise BatchUsageError(
                f"output_dir must be writable, got {error.strerror}; choose another folder"
            ) from error
        hidden = None if self.progress else True  # None: no bar where the output is not a terminal
        with logging_redirect_tqdm(), tqdm(total=count, desc="series", unit="series", disable=hidden) as bar:
            try:
                for record in self._records(map(self._task, self.index.series()), stage):
                    self._note(record)
                    bar.update()
            finally:
                sweep(self.output_dir)

    def _start(self, stage: Path) -> Executor:
        if self.scheduler is None:
            return self.team(self.spec, self.workers, stage)
        try:
            from .cluster import Cluster  # an optional package, which a run on one machine does not need

            return Cluster(self.scheduler, self.spec, stage, self.team)
        except ModuleNotFoundError as error:
            message = f"executor dask needs the package {error.name}; pip install distributed"
            raise BatchUsageError(message) from error
        except (OSError, RuntimeError) as error:
            raise BatchUsageError(f"scheduler must be ready at {self.scheduler}, got {error}; correct it") from error

    def _task(self, series: SeriesCandidate) -> Task:
        return Task.of(series, self._source(series.files), self.output_dir)

    def _records(self, tasks: Iterator[Task], stage: Path) -> Iterator[SeriesRecord]:
        """Yield one record for each task. At most twice as many tasks as the executor takes are handed to it at a time.

        If a worker dies while it does several series, each of them is done again at the end, alone.
        """
        executor = self._start(stage)
        under_way: dict[Future[SeriesRecord], Task] = {}
        suspects: list[Task] = []
        alone = False
        why = "was stopped"
        try:
            while self.signal is None:
                for task in islice(tasks, max(0, (1 if alone else 2 * executor.size) - len(under_way))):
                    under_way[executor.submit(task)] = task
                if not under_way:
                    if not suspects:
                        return
                    tasks, suspects, alone = iter(suspects), [], True
                    continue
                done = wait(under_way, POLL_SECONDS, FIRST_COMPLETED).done
                for future in done:
                    if not future.cancelled():
                        task = under_way.pop(future)
                        if not alone and isinstance(future.exception(), executor.shared_deaths):
                            suspects.append(task)
                        else:
                            yield self._record(task, future)
                if any(future.cancelled() for future in done):
                    self.log.warning("the scheduler is lost; waiting for it to come back")
                    tasks, under_way = chain(under_way.values(), tasks), {}
                    executor.stop()
                    executor = self._start(stage)
        except BatchUsageError:
            if not self.able:
                raise
            why = "its scheduler was lost"
        finally:
            executor.stop()
        for task in chain(under_way.values(), suspects, tasks):
            message = f"a run must reach its end, but {why} before this series was done; run again to go on"
            yield task.failed(Reason.INTERRUPTED, message)

    def _record(self, task: Task, future: Future[SeriesRecord]) -> SeriesRecord:
        try:
            record = future.result()
        except CannotStartError as error:
            if not self.able:
                message = f"a worker must be able to start, got {error}; correct the config or the model"
                raise BatchUsageError(message) from error
            message = f"a worker must be able to start, got {error}; look at the machine"
            return task.failed(Reason.WORKER_DIED, message)
        except Exception as error:  # including Dask's own, if the machine of the worker failed at every attempt
            record = task.died(str(error) if isinstance(error, WorkerDiedError) else type(error).__name__)
        self.able = True
        return record

    def _note(self, record: SeriesRecord) -> None:
        self.records.add(record)
        why = f" {record.reason}: {record.message}" if record.reason else ""
        self.log.info("%s %s%s", record.series, record.status, why)

    def _say(self, code: int) -> None:
        for record in self.records.of(False):
            print("{series}: {status}: {reason}: {message}".format_map(record), file=sys.stderr)
        if code == 4:
            print(f"{self.dataset_dir}: nothing to process; put DICOM series there", file=sys.stderr)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM. Before the first series, they end the run at once."""

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            if not self.working:
                raise SystemExit(128 + number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _flat(ids: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested dictionaries into MONAI's nested ids, so that an override replaces one value only."""
    for key, value in ids.items():
        if key == "_desc_":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}::")
        else:
            yield f"{prefix}{key}", value
