# SPDX-License-Identifier: Apache-2.0
"""The state of every series in SQLite, one row per series. A change is on the disk before anything acts on it.

The key of a row is the hash of its SeriesInstanceUID; a row holds no patient data. Every change is one transaction that
names the state and the generation of images from which it starts. So if two threads try to move a row, one succeeds.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["SETTLED", "Ledger", "Row", "State"]


class State(StrEnum):
    """How far a series has come."""

    RECEIVED = "received"  # images are arriving, or have arrived
    COMPLETE = "complete"  # ready to be processed
    RUNNING = "running"
    PRODUCED = "produced"  # ready to be sent
    SENT = "sent"  # every image was answered with success; storage commitment is pending
    ACKNOWLEDGED = "acknowledged"  # the destination has it; nothing is left to do
    IGNORED = "ignored"  # no rule takes it
    DEAD = "dead"  # nothing more happens until a person or the sender tries again


SETTLED = (State.ACKNOWLEDGED, State.IGNORED)


@dataclass(frozen=True)
class Row:
    """One series.

    Attributes:
        series: hash of its UID.
        study: hash of the UID of its study.
        state: see :class:`State`.
        generation: grows whenever images arrive, so that a result of fewer images is not taken for one of all.
        unended: 1 until a transfer of its images has ended well.
        bytes: size of its images in the spool.
        files: JSON list of the names of the images when it was last complete.
        changed_at: when the state was last changed (Unix time), or an image arrived.
        rule: index of the rule that takes it, from 0.
        destination: AE title that results go to.
        outputs: JSON list of keys of its volumes that have a result.
        sent: number of derived images that the destination has answered with success.
        attempts: number of failures in a row.
        next_at: time before which it is not tried again.
        transfer: UID of the open request for storage commitment.
        reason: code of the reason why it is dead or ignored, or was last put off.
        message: one line for a person, without patient data.
        remark: why one of several volumes of the series has no result.
    """

    series: str
    study: str
    state: State
    generation: int
    unended: int
    bytes: int
    files: str
    changed_at: float
    rule: int | None
    destination: str | None
    outputs: str
    sent: int
    attempts: int
    next_at: float
    transfer: str | None
    reason: str | None
    message: str | None
    remark: str | None

    @property
    def names(self) -> set[str]:
        """Names of the images when it was last complete."""
        return set(json.loads(self.files))


COLUMNS = [field.name for field in fields(Row)]
TABLE = """
CREATE TABLE IF NOT EXISTS series (
    series TEXT PRIMARY KEY, study TEXT NOT NULL, state TEXT NOT NULL, generation INTEGER NOT NULL DEFAULT 1,
    unended INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL DEFAULT 0, files TEXT NOT NULL DEFAULT '[]',
    changed_at REAL NOT NULL, rule INTEGER, destination TEXT, outputs TEXT NOT NULL DEFAULT '[]',
    sent INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0,
    transfer TEXT, reason TEXT, message TEXT, remark TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS by_state ON series (state);
"""


class Ledger:
    """All rows.

    Args:
        file: SQLite database; made if it does not exist.
        clock: function that returns Unix time; tests pass their own.

    Attributes:
        lock: a thread that holds it is the only one to use the rows and the folders of the spool that they describe.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.database = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")  # on the disk before the sender is told "success"
        self.database.executescript(TABLE)
        os.chmod(file, 0o600)

    def close(self) -> None:
        """Write everything into the database file, and close it."""
        with self.lock:
            self.database.close()

    def _query(self, sql: str, *values: Any) -> list[tuple]:
        with self.lock:
            return self.database.execute(sql, values).fetchall()

    # --- reading

    def get(self, series: str) -> Row | None:
        """One series."""
        found = self.select("series = ?", series)
        return found[0] if found else None

    def select(self, condition: str = "1", *values: Any) -> list[Row]:
        """Rows that meet an SQL condition; the row that has been unchanged for longest comes first."""
        sql = f"SELECT {', '.join(COLUMNS)} FROM series WHERE {condition} ORDER BY changed_at, series"
        return [
            Row(**{**dict(zip(COLUMNS, row, strict=True)), "state": State(row[2])}) for row in self._query(sql, *values)
        ]

    def counts(self) -> dict[State, int]:
        """Number of series by state, zeros included."""
        found = dict(self._query("SELECT state, COUNT(*) FROM series GROUP BY state"))
        return {state: found.get(state, 0) for state in State}

    def spool_bytes(self) -> int:
        """Size of all images in the spool."""
        return int(self._query("SELECT COALESCE(SUM(bytes), 0) FROM series")[0][0])

    # --- writing

    def arrived(self, series: str, study: str, size: int) -> None:
        """Note that an image has arrived: its series is being received, whatever its state was before."""
        with self.lock:
            self._query(
                "INSERT INTO series (series, study, state, bytes, changed_at) VALUES (?, ?, 'received', ?, ?) "
                "ON CONFLICT (series) DO UPDATE SET state = 'received', generation = generation + 1, unended = 1, "
                "bytes = bytes + excluded.bytes, changed_at = excluded.changed_at, outputs = '[]', sent = 0, "
                "attempts = 0, next_at = 0, transfer = NULL, reason = NULL, message = NULL, remark = NULL",
                series, study, size, self.clock(),
            )  # fmt: skip

    def ended(self, series: Iterable[str]) -> None:
        """Note that a transfer of images of these series has ended well."""
        with self.lock:
            for key in series:
                self._query("UPDATE series SET unended = 0 WHERE series = ? AND state = 'received'", key)

    def move(self, row: Row, state: State, **changes: Any) -> bool:
        """Change a row if it has not changed since it was read.

        Args:
            row: the row as it was read.
            state: the new state; may be the old one.
            changes: new values of other columns.

        Returns:
            Whether it was changed.
        """
        assert changes.keys() <= set(COLUMNS)
        changes = {"changed_at": self.clock(), **changes}
        names = ", ".join(f"{name} = ?" for name in changes)
        with self.lock:
            cursor = self.database.execute(
                f"UPDATE series SET state = ?, {names} WHERE series = ? AND state = ? AND generation = ?",
                [state, *changes.values(), row.series, row.state, row.generation],
            )
            return cursor.rowcount == 1

    def progress(self, row: Row, sent: int) -> bool:
        """Note the number of derived images that the destination has."""
        return self.move(row, State.PRODUCED, sent=sent)

    def put_off(self, row: Row, pause_seconds: float, reason: str, message: str) -> bool:
        """Note a failure, and the time of the next attempt."""
        return self.move(
            row, row.state, attempts=row.attempts + 1, next_at=self.clock() + pause_seconds, reason=reason,
            message=message, changed_at=row.changed_at,
        )  # fmt: skip

    def recover(self) -> int:
        """Check again the series that were under way when the node last stopped; returns their number."""
        with self.lock:
            return self.database.execute(
                "UPDATE series SET state = 'received', unended = 0 WHERE state IN ('complete', 'running')"
            ).rowcount

    def retry(self, series: str) -> State | None:
        """Try a dead letter again; returns its new state, or ``None`` if that is impossible.

        A series that has results is sent again. Any other is checked again and counts as complete.
        """
        with self.lock:
            row = self.get(series)
            if row is None or row.state is not State.DEAD or not row.bytes:
                return None
            state = State.PRODUCED if json.loads(row.outputs) else State.RECEIVED
            changes = {"reason": None, "message": None, "transfer": None, "files": "[]", "changed_at": row.changed_at}
            self.move(row, state, attempts=0, next_at=0.0, unended=0, **changes)
            return state
