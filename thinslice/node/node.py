# SPDX-License-Identifier: Apache-2.0
"""All parts of the node, started and stopped together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.batch.isolation import Team
from scripts.batch.tasks import WorkerSpec

from .clerk import Clerk
from .ledger import SETTLED, State
from .monitor import Counts, Monitor, metrics_text
from .receiver import Receiver
from .sender import Sender
from .settings import Settings
from .spool import Spool
from .tls import client_context, server_context
from .workshop import Worker, Workshop

__all__ = ["Listening", "Node"]

PAUSE_SECONDS = 0.25  # between two checks for work
FULL = 0.98  # share of the spool above which it is reported as nearly full
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where the node listens.

    Attributes:
        title: its AE title.
        address: address for DICOM.
        port: port for DICOM; 0 takes a free one.
        http_address: address for health and metrics.
        http_port: port for health and metrics; 0 takes a free one.
    """

    title: str
    address: str
    port: int
    http_address: str
    http_port: int


class Node:
    """The node.

    Args:
        listening: where it listens.
        settings: settings of the node.
        root: folder of the spool, which the caller has locked.
        make: function that makes the workers; see :class:`~.workshop.Workshop`.

    Raises:
        SettingsError: if the settings cannot be carried out.
        OSError: if a port is not available.
    """

    def __init__(
        self,
        listening: Listening,
        settings: Settings,
        root: Path,
        make: Callable[[WorkerSpec, int, Path], Worker] = Team,
    ) -> None:
        self.settings = settings
        self.counts = Counts()
        receiving = server_context(settings.tls) if settings.tls else None
        sending = client_context(settings.tls) if settings.tls else None
        self.spool = Spool(root, settings.disk)
        self.ledger = self.spool.ledger
        self.spool.tidy()
        self.ledger.recover()
        self.workshop = Workshop(settings, self.spool, self.counts, make)
        self.senders = {
            name: Sender(listening.title, name, settings, self.spool, self.counts, sending if destination.tls else None)
            for name, destination in settings.destinations.items()
        }
        callers = {**{name: one.host for name, one in settings.destinations.items()}, **settings.callers}
        idle_seconds = settings.complete.interrupted_seconds
        self.receiver = Receiver(listening.title, callers, self.spool, self.counts, self._committed, idle_seconds)
        self.clerk = Clerk(settings, self.spool, self.receiver.sending)
        self.stopped = threading.Event()
        self.ailing: dict[str, str] = {}
        self.monitor = Monitor(listening.http_address, listening.http_port, self.problems, self.metrics)
        self.port = self.receiver.start(listening.address, listening.port, receiving)
        self.threads = [
            self._thread("clerk", self._look),
            *(self._thread(f"work {number + 1}", self.workshop.work) for number in range(self.workshop.size)),
            *(self._thread(f"send to {name}", sender.work) for name, sender in self.senders.items()),
        ]
        log.info("%s listens at %s:%d, /health and /metrics at %s:%d", listening.title, listening.address, self.port,
                 listening.http_address, self.monitor.port)  # fmt: skip

    def stop(self) -> None:
        """Stop everything; work that is under way continues when the node is started again."""
        log.info("stopping")
        self.stopped.set()
        self.receiver.stop()
        self.workshop.stop()
        for thread in self.threads:
            thread.join(30)
        self.monitor.stop()
        self.ledger.close()

    def _thread(self, name: str, work: Callable[[], bool]) -> threading.Thread:
        thread = threading.Thread(target=self._loop, args=(name, work), name=name, daemon=True)
        thread.start()
        return thread

    def _loop(self, name: str, work: Callable[[], bool]) -> None:
        """Work in a loop; an error is logged and does not end the loop."""
        while not self.stopped.is_set():
            pause = PAUSE_SECONDS
            try:
                if work():
                    pause = 0.0
                self.ailing.pop(name, None)
            except Exception as error:  # whatever it is, the node must continue, and log it
                if self.stopped.is_set():
                    return
                self.counts.add("errors_total")
                self.ailing[name] = type(error).__name__
                where = error.__traceback__
                while where is not None and where.tb_next is not None:
                    where = where.tb_next
                line = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
                log.error("%s: unexpected %s at %s", name, type(error).__name__, line)  # a message may quote a header
                pause = self.settings.retry.first_seconds
            self.stopped.wait(pause)

    def _look(self) -> bool:
        self.clerk.look()
        return False

    def _committed(self, transfer: str, safe: bool) -> None:
        for row in self.ledger.select("state = 'sent' AND transfer = ?", transfer):
            self.senders[row.destination or ""].committed(row, safe)

    # --- health and metrics

    def problems(self) -> list[str]:
        """One line for each present problem that needs a person."""
        found = [f"{name}: unexpected {error}" for name, error in sorted(self.ailing.items())]
        if not self.spool.room_for(0):
            found.append(f"free space is below {self.settings.disk.free_gib:g} GiB; images are refused")
        elif self.ledger.spool_bytes() >= FULL * self.settings.disk.spool_gib * 2**30:
            found.append(f"the spool is close to {self.settings.disk.spool_gib:g} GiB; images are or will be refused")
        if self.spool.fault:
            found.append(f"the last image could not be written: {self.spool.fault}; images are refused")
        if waiting := self.workshop.waiting_for_room():
            factor = self.settings.disk.work_factor
            found.append(f"{waiting} series wait for free space of {factor:g} times their size")
        if self.workshop.cannot_start:
            found.append(f"the worker cannot start: {self.workshop.cannot_start}")
        return found

    def metrics(self) -> str:
        """The text of ``/metrics``."""
        now = self.ledger.clock()
        waiting = {str(state): 0.0 for state in State if state not in SETTLED}
        for row in self.ledger.select("state NOT IN ('acknowledged', 'ignored')"):
            waiting[row.state] = max(waiting[row.state], now - row.changed_at)
        gauges: dict[str, float | dict[str, float]] = {
            "series": {str(state): float(count) for state, count in self.ledger.counts().items()},
            "spool_bytes": float(self.ledger.spool_bytes()),
            "free_bytes": float(self.spool.free_bytes()),
            "oldest_seconds": waiting,
            "healthy": float(not self.problems()),
        }
        return metrics_text(self.counts, gauges)
