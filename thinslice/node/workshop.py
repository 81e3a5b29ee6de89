# SPDX-License-Identifier: Apache-2.0
"""Process complete series with the discovery, the workers and the result folders of the batch (docs/batch.md)."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from monai.bundle import ConfigParser
from scripts.batch.isolation import CannotStartError, Team, WorkerDiedError
from scripts.batch.report import SeriesRecord, Status
from scripts.batch.staging import STAGING, sweep
from scripts.batch.tasks import Task, WorkerSpec
from scripts.dicom.discovery import Discovered, SeriesCandidate, discover
from scripts.reasons import Reason

from ..location import BUNDLE, config_file
from .ledger import Row, State
from .monitor import Counts
from .rules import check_ids, inference_ids
from .settings import Rule, Settings, SettingsError
from .spool import Spool

__all__ = ["Batch", "Worker", "Workshop", "batch_of", "check_rules"]

INFERENCE = "inference::"
DISCOVERY = ("strict", "min_slices", "max_voxels")  # ids of the batch that discovery takes
# not a fault: such a series is not meant to be processed
NOT_MEANT = (
    Reason.NOT_AN_IMAGE, Reason.NOT_MR, Reason.LOCALIZER, Reason.QUANTITATIVE, Reason.ALREADY_DERIVED, Reason.ISOTROPIC,
    Reason.THIN_SLICES,
)  # fmt: skip
# faults of the machine: the same series may succeed later
AGAIN = (Status.FAILED, Status.TIMEOUT, Status.OOM)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Parts of the batch, as its config makes them for the ids of a rule.

    Attributes:
        spec: settings of its workers.
        workers: number of workers at a time.
        discover: function from a folder of images to its volumes.
    """

    spec: WorkerSpec
    workers: int
    discover: Callable[[Path], Discovered]


class Worker(Protocol):
    """Interface of what processes one volume: the batch's :class:`~scripts.batch.isolation.Team`."""

    def do(self, task: Task) -> SeriesRecord:
        """Process a volume and wait for its record."""

    def stop(self) -> None:
        """Stop, and start nothing more."""


def batch_of(settings: Settings, rule: Rule, root: Path) -> Batch:
    """Make the parts of the batch from its config, for the ids of a rule.

    Args:
        settings: settings of the node.
        rule: rule whose ids of the inference are set.
        root: folder of the spool.

    Raises:
        SettingsError: if an id is unknown.
    """
    ids = {**settings.batch, **{INFERENCE + name: value for name, value in inference_ids(rule).items()}}
    parser = ConfigParser()
    parser.read_config(config_file("batch_dicom.json"))
    inference = ConfigParser()
    inference.read_config(config_file("inference.json"))
    for name in ids:
        own = name.removeprefix(INFERENCE)
        if own.partition("::")[0] not in (inference if own != name else parser):
            raise SettingsError(
                f"batch must name ids of batch_dicom.json, got {name!r}; the ids are in docs/configs.md"
            )
    defaults = {"bundle_root": str(BUNDLE), "dataset_dir": str(root / "in"), "output_dir": str(root / "out")}
    parser.update({"pictures": 0, "progress": False, **ids, **defaults})
    runner = parser.get_parsed_content("batch")
    look = partial(discover, **{name: parser.get_parsed_content(name) for name in DISCOVERY})
    return Batch(runner.spec, runner.workers, look)


def check_rules(settings: Settings) -> None:
    """Demand that this bundle can carry out all rules.

    Raises:
        SettingsError: if it cannot.
    """
    inference = ConfigParser()
    inference.read_config(config_file("inference.json"))
    check_ids(settings.rules, inference.get())


class Workshop:
    """Process complete series.

    Args:
        settings: settings of the node.
        spool: images and rows.
        counts: counters.
        make: function ``spec, size, stage -> Worker``.

    Raises:
        SettingsError: if a rule or the batch's ids cannot be carried out by this bundle.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        counts: Counts,
        make: Callable[[WorkerSpec, int, Path], Worker] = Team,
    ) -> None:
        check_rules(settings)
        self.settings = settings
        self.spool = spool
        self.ledger = spool.ledger
        self.counts = counts
        self.make = make
        self.batches = [batch_of(settings, rule, spool.root) for rule in settings.rules]
        self.size = int(self.batches[0].workers)
        self.lock = threading.Lock()
        self.workers: dict[str, Worker] = {}
        self.cannot_start: str | None = None
        sweep(spool.out)
        self.stage = spool.out / f"{STAGING}-{uuid.uuid4().hex}"
        self.stage.mkdir(mode=0o700)

    def stop(self) -> None:
        """Kill all processes; the work that was under way is done again at the next start."""
        with self.lock:
            for worker in self.workers.values():
                worker.stop()
        sweep(self.spool.out)

    def work(self) -> bool:
        """Process the series that has waited longest; returns whether there was one."""
        now = self.ledger.clock()
        for row in self.ledger.select("state = 'complete' AND next_at <= ?", now):
            if not self._has_room(row):
                continue
            if self.ledger.move(row, State.RUNNING, changed_at=row.changed_at):
                row = replace(row, state=State.RUNNING)
                try:
                    self._do(row)
                except CancelledError:  # the node is being stopped
                    self.ledger.move(row, State.COMPLETE, changed_at=row.changed_at)
                except Exception as error:  # whatever it is, the series must reach another state
                    self._put_off(row, str(Reason.INTERNAL), f"the node must go on, but met {type(error).__name__}")
                    raise
                return True
        return False

    def waiting_for_room(self) -> int:
        """Number of complete series that wait for more free space."""
        return sum(not self._has_room(row) for row in self.ledger.select("state = 'complete'"))

    def _has_room(self, row: Row) -> bool:
        return self.spool.room_for(int(row.bytes * self.settings.disk.work_factor))

    def _do(self, row: Row) -> None:
        rule = row.rule or 0
        found = self.batches[rule].discover(self.spool.folder(row.series))
        try:
            records = [self._volume(rule, one) for one in found.series]
        except CannotStartError as error:
            self.cannot_start = str(error)
            message = f"a worker must be able to start, got {error}; correct the settings or the model"
            self._put_off(row, "WORKER_DIED", message, for_ever=True)
            return
        self.cannot_start = None
        self._conclude(row, records, found)

    def _volume(self, rule: int, series: SeriesCandidate) -> SeriesRecord:
        task = Task.of(series, ".", self.spool.out)
        try:
            return self._worker(rule).do(task)
        except WorkerDiedError as error:
            return task.died(str(error))

    def _worker(self, rule: int) -> Worker:
        """The workers for a rule; rules with the same ids share them."""
        spec = self.batches[rule].spec
        key = json.dumps(dict(spec.ids), sort_keys=True, default=str)
        with self.lock:
            if key not in self.workers:
                self.workers[key] = self.make(spec, self.size, self.stage)
            return self.workers[key]

    def _conclude(self, row: Row, records: list[SeriesRecord], found: Discovered) -> None:
        """Set the state of the series from the outcomes of its volumes."""
        if again := [record for record in records if record.status in AGAIN]:
            self._put_off(row, str(again[0].reason), str(again[0].message))
            return
        done = sorted(record.series for record in records if record.dicom_dir)
        faults = [(record.reason, record.message) for record in records if not record.dicom_dir]
        faults += [(str(refused.error.reason), refused.error.message) for refused in found.refused]
        faults += [(str(file.error.reason), file.error.message) for file in found.files]
        if not done and not faults:
            faults = [(str(Reason.NOT_AN_IMAGE), "a series must hold images, got none; nothing to do")]
        reason, message = faults[0] if faults else (None, None)
        changes = {"outputs": json.dumps(done), "sent": 0, "attempts": 0, "next_at": 0.0}
        if done:
            remark = f"{reason}: {message}" if reason else None
            moved = self.ledger.move(row, State.PRODUCED, reason=None, message=None, remark=remark, **changes)
        elif all(fault in NOT_MEANT for fault, _ in faults):
            moved = self.spool.settle(row, State.IGNORED, reason=reason, message=message)
        else:
            moved = self.ledger.move(row, State.DEAD, reason=reason, message=message, **changes)
        if moved:
            what = "produced" if done else "no result"
            log.info("%s: %s%s", row.series, what, f": {reason}: {message}" if reason else "")

    def _put_off(self, row: Row, reason: str, message: str, for_ever: bool = False) -> None:
        """Try again later; a series that keeps failing becomes a dead letter."""
        self.counts.add("work_failures_total")
        retry = self.settings.retry
        attempts = row.attempts + 1
        if attempts >= retry.work_attempts and not for_ever:
            self.ledger.move(row, State.DEAD, reason=reason, message=message, attempts=attempts)
            log.error("%s: dead: %s: %s", row.series, reason, message)
            return
        later = self.ledger.clock() + retry.pause_seconds(attempts)
        changes = {"attempts": attempts, "next_at": later, "changed_at": row.changed_at}
        self.ledger.move(row, State.COMPLETE, reason=reason, message=message, **changes)
        log.error("%s: put off: %s: %s", row.series, reason, message)
