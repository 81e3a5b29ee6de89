# SPDX-License-Identifier: Apache-2.0
"""The batch: every series of a folder tree through the bundle's inference, each in isolation, none lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..dicom.discovery import Discovered, RefusedSeries, SeriesCandidate
from ..reasons import Reason
from .html import write_html
from .ranks import Ranks
from .report import SeriesRecord, Status, exit_code, make_report, write_report
from .staging import STAGING, BatchUsageError, check_apart, check_space, locked, publish, sweep
from .worker import PipelineSpec, Task, serve

__all__ = ["BatchRunner"]

JOBS = ".jobs"
POLL_SECONDS = 0.1


class BatchRunner:
    """Discover, hand out, watch, put in place, report.

    Args:
        bundle_root: the bundle.
        dataset_dir: folder tree of DICOM files; never written to.
        output_dir: apart from it; gets one folder per series and the reports.
        inference_configs: config files of the bundle's inference, merged in order.
        inference: overrides of their ids; nested dictionaries reach nested ids.
        discover: ``folder -> Discovered``.
        workers: processes at a time (per rank).
        threads_per_worker: torch threads of each; ``None`` shares the processor out evenly.
        series_per_worker: a worker is replaced after so many series.
        timeout_seconds: for one series, and for a worker to become ready.
        memory_limit_gib: resident memory of a worker, and of what it may allocate on top of the loaded model;
            ``None`` sets no limit.
        free_space_factor: bytes of free space wanted per byte of input.
        pictures: slices per plane in the report; 0 makes none.
        progress: show a progress bar.
    """

    def __init__(
        self,
        bundle_root: str,
        dataset_dir: str,
        output_dir: str,
        inference_configs: Sequence[str],
        inference: Mapping[str, Any],
        discover: Callable[[Path], Discovered],
        workers: int = 1,
        threads_per_worker: int | None = None,
        series_per_worker: int = 20,
        timeout_seconds: float = 3600,
        memory_limit_gib: float | None = None,
        free_space_factor: float = 24,
        pictures: int = 9,
        progress: bool = True,
    ) -> None:
        self.dataset_dir = Path(dataset_dir)
        self.output_dir = Path(output_dir)
        self.discover = discover
        self.workers = workers
        self.series_per_worker = series_per_worker
        self.timeout_seconds = timeout_seconds
        self.memory_limit_bytes = None if memory_limit_gib is None else int(memory_limit_gib * 2**30)
        self.free_space_factor = free_space_factor
        self.progress = progress
        self.spec = PipelineSpec(
            configs=tuple(str(Path(path).resolve()) for path in inference_configs),
            ids=dict(_flat(inference)),
            bundle_root=str(Path(bundle_root).resolve()),
            pictures=pictures,
            threads=threads_per_worker or (max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None),
            memory_limit_bytes=self.memory_limit_bytes,
        )
        self.signal: int | None = None
        self.working = False  # from here on a signal is noted, and the report written
        self.able = False  # whether a worker has become ready
        self.records: list[SeriesRecord] = []
        self.log = logging.getLogger(type(self).__name__)

    def run(self) -> int:
        """Process everything; never raises for a series.

        Returns:
            0 all done; 3 some series refused, failed, timed out or out of memory; 2 usage, config or model error
            before any series; 4 nothing to process; 130 and 143 interrupted.
        """
        with Ranks() as ranks, self._signals():
            try:
                self._check_settings()
                check_apart(self.dataset_dir, self.output_dir)
                if not ranks.first:
                    return self._run(ranks)
                with locked(self.output_dir):
                    sweep(self.output_dir)
                    (self.output_dir / "report.json").unlink(missing_ok=True)  # a killed run must not seem to report
                    return self._run(ranks)
            except BatchUsageError as error:
                print(error, file=sys.stderr)
                return 2

    def _run(self, ranks: Ranks) -> int:
        started = datetime.now(UTC)
        clock = time.perf_counter()
        found = ranks.share(lambda: self.discover(self.dataset_dir))
        self.working = True
        if mine := found.series[ranks.rank :: ranks.size]:
            self._check_space(mine)
            self._process(mine, ranks.rank)
        records = ranks.gather(self.records)
        signals = [number for number in ranks.gather([self.signal]) if number is not None]

        def conclude() -> int:
            everything = [*records, *(self._refused(series) for series in found.refused)]
            code = exit_code(everything, signals[0] if signals else None)
            facts = {
                "started_at": started.isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - clock, 3),
                "ranks": ranks.size,
            }
            report = make_report(everything, self._left_out(found), facts, code)
            write_html(self.output_dir, report)
            write_report(self.output_dir, report)
            self._say(everything, code)
            return code

        return ranks.share(conclude)  # torchrun ends all when one ends: nobody leaves before the report is there

    def _check_settings(self) -> None:
        for name, value in (("workers", self.workers), ("series_per_worker", self.series_per_worker)):
            if not isinstance(value, int) or value < 1:
                raise BatchUsageError(f"{name} must be a whole number >= 1, got {value!r}; correct the id")
        if self.timeout_seconds <= 0:
            raise BatchUsageError(f"timeout_seconds must be > 0, got {self.timeout_seconds}; correct the id")

    def _check_space(self, series: Sequence[SeriesCandidate]) -> None:
        todo = [one for one in series if not (self.output_dir / one.key).exists()]
        check_space(self.output_dir, int(sum(_size(one) for one in todo) * self.free_space_factor))

    # --- what is known before a pixel is read

    def _source(self, files: Sequence[Path]) -> str:
        """Folder of a series relative to ``dataset_dir``."""
        return os.path.relpath(os.path.commonpath([path.parent for path in files]), self.dataset_dir)

    def _candidate(self, series: SeriesCandidate) -> SeriesRecord:
        return SeriesRecord(
            series=series.key,
            source=self._source(series.files),
            n_files=len(series.files) + len(series.copies),
            n_slices_in=len(series.files),
            warnings=[str(warning) for warning in series.warnings],
        )

    def _refused(self, series: RefusedSeries) -> SeriesRecord:
        return SeriesRecord(
            series=series.key,
            source=self._source(series.files),
            status=Status.REFUSED,
            reason=str(series.error.reason),
            message=series.error.message,
            n_files=len(series.files),
        )

    def _left_out(self, found: Discovered) -> list[dict[str, str]]:
        files = [(file.path, str(file.error.reason), file.error.message) for file in found.files]
        nifti = "a NIfTI file is no DICOM series; run inference.json on it"
        files += [(path, str(Reason.NOT_AN_IMAGE), nifti) for path in found.nifti]
        return [
            {"path": os.path.relpath(path, self.dataset_dir), "reason": reason, "message": message}
            for path, reason, message in files
        ]

    # --- the work

    def _process(self, series: Sequence[SeriesCandidate], rank: int) -> None:
        """Have every series done, or say why it is not."""
        queue = deque(self._task(one) for one in series)
        count = min(self.workers, len(queue))
        stage = self.output_dir / f"{STAGING}-{os.getpid()}-{rank}"
        try:
            stage.mkdir(mode=0o700)
        except OSError as error:
            raise BatchUsageError(
                f"output_dir must be writable, got {error.strerror}; choose another folder"
            ) from error
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["monai.bundle", "monai.engines", "monai.inferers", "torch", "pydicom"])
        team = [_Worker(context, self.spec, stage / str(i)) for i in range(count)]
        hidden = None if self.progress and rank == 0 else True  # None: no bar where the output is not a terminal
        bar = tqdm(total=len(queue), desc="series", unit="series", disable=hidden)
        try:
            with logging_redirect_tqdm():
                while self.signal is None and (queue or any(worker.task for worker in team)):
                    for worker in team:
                        self._attend(worker, queue, bar)
                    busy = [worker.pipe for worker in team if worker.alive and (worker.task or not worker.ready)]
                    if busy:
                        connection.wait(busy, timeout=POLL_SECONDS)
        finally:
            bar.close()
            for worker in team:
                worker.kill()
            _remove(stage)
        left = [worker.task for worker in team if worker.task] + list(queue)
        message = "a run must go on to its end, but was stopped before this series was done; run again to go on"
        stopped = _fault(Status.FAILED, Reason.INTERRUPTED, message)
        self.records.extend(replace(task.record, **stopped) for task in left)

    def _task(self, series: SeriesCandidate) -> Task:
        final = self.output_dir / series.key
        return Task(series, self._candidate(series), final, self.output_dir / JOBS / f"{series.key}.json")

    def _attend(self, worker: _Worker, queue: deque[Task], bar: tqdm) -> None:
        """Look after one worker: take what it says, end what it must not do, give it something to do."""
        message = worker.listen(self.timeout_seconds, self.memory_limit_bytes)
        if message is not None:
            kind, content = message
            self.able = self.able or kind == "ready"
            if kind in ("error", "lost"):
                worker.kill()
            if kind == "error":
                self._cannot_start(content, queue, bar)
            elif kind == "lost" and worker.task is None:
                self._cannot_start(content["message"], queue, bar)
            elif worker.task is not None:
                record = content if kind == "done" else replace(worker.task.record, **content)
                self._finish(worker, record, bar)
                if worker.done >= self.series_per_worker or record.status == Status.OOM:
                    worker.kill()
        if not queue:
            return
        if not worker.alive:
            worker.start()
        elif worker.ready and worker.task is None:
            worker.give(queue.popleft())

    def _cannot_start(self, why: str, queue: deque[Task], bar: tqdm) -> None:
        """A worker that never became ready: a fault of the run, if it is the first, else of the machine."""
        if not self.able:
            raise BatchUsageError(f"a worker must be able to start, got {why}; correct the config or the model")
        if queue:
            record = replace(
                queue.popleft().record,
                reason=str(Reason.WORKER_DIED),
                message=f"a worker must be able to start, got {why}; look at the machine",
            )
            self._note(record, bar)

    def _finish(self, worker: _Worker, record: SeriesRecord, bar: tqdm) -> None:
        """Put a result in place, and keep its record."""
        task = worker.task
        worker.task = None
        assert task is not None
        if record.status == Status.OK:
            try:
                publish(worker.stage, task.final)
            except OSError as error:
                message = f"output_dir must be writable with space left, got {error.strerror}; make room"
                record = replace(task.record, **_fault(Status.FAILED, Reason.UNWRITABLE, message))
        _remove(worker.stage)
        if record.peak_memory_bytes is not None:
            record = replace(record, peak_memory_bytes=max(record.peak_memory_bytes, worker.peak_bytes))
        self._note(record, bar)

    def _note(self, record: SeriesRecord, bar: tqdm) -> None:
        self.records.append(record)
        bar.update()
        why = f" {record.reason}: {record.message}" if record.reason else ""
        self.log.info("%s %s%s", record.series, record.status, why)

    def _say(self, records: Sequence[SeriesRecord], code: int) -> None:
        for record in records:
            if record.status not in (Status.OK, Status.SKIPPED):
                print(f"{record.series}: {record.status}: {record.reason}: {record.message}", file=sys.stderr)
        if code == 4:
            print(f"{self.dataset_dir}: nothing to process; put DICOM series there", file=sys.stderr)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM; before the first series they end the run at once."""

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


class _Worker:
    """The runner's side of one worker process."""

    def __init__(self, context: Any, spec: PipelineSpec, stage: Path) -> None:
        self.context = context
        self.spec = spec
        self.stage = stage
        self.task: Task | None = None
        self.start()

    def start(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(target=serve, args=(theirs, self.spec, self.stage), daemon=True)
        self.process.start()
        theirs.close()
        self.alive = True
        self.ready = False
        self.done = 0
        self.peak_bytes = 0
        self.since = time.monotonic()

    def give(self, task: Task) -> None:
        self.task = task
        self.peak_bytes = 0
        self.since = time.monotonic()
        with suppress(OSError):  # if it has died, `listen` will say so
            self.pipe.send(task)

    def listen(self, timeout_seconds: float, memory_limit_bytes: int | None) -> tuple[str, Any] | None:
        """What there is to know: ``ready``, ``error``, ``done``, or ``lost`` with what to put into the record."""
        if not self.alive or (self.ready and self.task is None):
            return None
        try:
            if self.pipe.poll():
                kind, content = self.pipe.recv()
                self.ready = self.ready or kind == "ready"
                self.done += kind == "done"
                return kind, content
        except (EOFError, OSError):
            self.process.join(5)
            why = f"the worker died ({_ending(self.process.exitcode)})"
            return "lost", _fault(Status.FAILED, Reason.WORKER_DIED, f"a worker must survive a series, but {why}")
        seconds = time.monotonic() - self.since
        if seconds > timeout_seconds:
            message = f"a series must be done within {timeout_seconds:g} s; raise timeout_seconds, or look at it"
            return "lost", _fault(Status.TIMEOUT, Reason.TIMEOUT, message)
        if memory_limit_bytes is not None and self.task is not None and self._resident() > memory_limit_bytes:
            message = f"a worker must stay below {memory_limit_bytes / 2**30:g} GiB; raise memory_limit_gib"
            return "lost", _fault(Status.OOM, Reason.OOM, message)
        return None

    def _resident(self) -> int:
        try:
            resident = psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:
            return 0
        self.peak_bytes = max(self.peak_bytes, resident)
        return resident

    def kill(self) -> None:
        """End the process, at once and for certain."""
        if self.alive:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.alive = False


def _fault(status: Status, reason: Reason, message: str) -> dict[str, Any]:
    return {"status": status, "reason": str(reason), "message": message}


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _flat(ids: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as MONAI's nested ids, so that an override replaces one value and not its neighbours."""
    for key, value in ids.items():
        if key == "_desc_":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}::")
        else:
            yield f"{prefix}{key}", value


def _size(series: SeriesCandidate) -> int:
    return sum(size for size, _ in series.stamps)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
