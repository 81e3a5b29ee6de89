# SPDX-License-Identifier: Apache-2.0
"""The state of every series, in SQLite: one row a series, on the disk before anybody is told of it.

A row is known by the hash of its SeriesInstanceUID, and holds no patient data. Every change is one transaction that
names the state (and the generation of images) it starts from, so that of two who want to move a row one succeeds.
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
    """Where a series is on its way."""

    RECEIVED = "received"  # images arrive, or have arrived
    COMPLETE = "complete"  # to be worked on
    RUNNING = "running"
    PRODUCED = "produced"  # to be sent
    SENT = "sent"  # every image answered with success; storage commitment is awaited
    ACKNOWLEDGED = "acknowledged"  # the receiver has it; nothing is left to do
    IGNORED = "ignored"  # no rule takes it
    DEAD = "dead"  # nothing more happens until a person, or the sender, tries again


SETTLED = (State.ACKNOWLEDGED, State.IGNORED)


@dataclass(frozen=True)
class Row:
    """One series.

    Attributes:
        series: hash of its UID.
        study: hash of the UID of its study.
        state: see :class:`State`.
        generation: grows whenever images arrive, so that work on fewer images is not taken for work on all.
        unended: 1 until a transfer of its images has ended well.
        bytes: size of what is in the spool.
        files: JSON list of names of the images that were there when it was last complete.
        changed_at: when the state was last changed (Unix time), or an image arrived.
        rule: number of the rule that takes it, from 0.
        destination: AE title that results go to.
        outputs: JSON list of keys of its volumes that have a result.
        sent: how many derived images the destination has answered with success.
        attempts: failures in a row.
        next_at: not before this time.
        transfer: UID of the open request for storage commitment.
        reason: code of why it is dead or ignored, or was last put off.
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
        """Names of the images that were there when it was last complete."""
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
        file: SQLite database; made if it is not there.
        clock: Unix time; tests have their own.

    Attributes:
        lock: whoever holds it has the rows, and what the rows say of the spool, to itself.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.database = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")  # on the disk before the network says "success"
        self.database.executescript(TABLE)
        os.chmod(file, 0o600)

    def close(self) -> None:
        """Write everything into the one file, and let go of it."""
        with self.lock:
            self.database.close()

    def _query(self, sql: str, *values: Any) -> list[tuple]:
        with self.lock:
            return self.database.execute(sql, values).fetchall()

    # --- looking

    def get(self, series: str) -> Row | None:
        """One series."""
        found = self.select("series = ?", series)
        return found[0] if found else None

    def select(self, condition: str = "1", *values: Any) -> list[Row]:
        """Rows that meet an SQL condition, longest unchanged first."""
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

    # --- changing

    def arrived(self, series: str, study: str, size: int) -> None:
        """An image has arrived: its series is being received, whatever it was before."""
        with self.lock:
            self._query(
                "INSERT INTO series (series, study, state, bytes, changed_at) VALUES (?, ?, 'received', ?, ?) "
                "ON CONFLICT (series) DO UPDATE SET state = 'received', generation = generation + 1, unended = 1, "
                "bytes = bytes + excluded.bytes, changed_at = excluded.changed_at, outputs = '[]', sent = 0, "
                "attempts = 0, next_at = 0, transfer = NULL, reason = NULL, message = NULL, remark = NULL",
                series, study, size, self.clock(),
            )  # fmt: skip

    def ended(self, series: Iterable[str]) -> None:
        """A transfer of images of these series has ended well."""
        with self.lock:
            for key in series:
                self._query("UPDATE series SET unended = 0 WHERE series = ? AND state = 'received'", key)

    def move(self, row: Row, state: State, **changes: Any) -> bool:
        """Change a row if it still is what it was.

        Args:
            row: as it was read.
            state: the new one; may be the same.
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
        """Note how many derived images the destination has."""
        return self.move(row, State.PRODUCED, sent=sent)

    def put_off(self, row: Row, pause_seconds: float, reason: str, message: str) -> bool:
        """Note a failure, and when to try again."""
        return self.move(
            row, row.state, attempts=row.attempts + 1, next_at=self.clock() + pause_seconds, reason=reason,
            message=message, changed_at=row.changed_at,
        )  # fmt: skip

    def recover(self) -> int:
        """What was under way when the node was last stopped is looked at again; returns how many series."""
        with self.lock:
            return self.database.execute(
                "UPDATE series SET state = 'received', unended = 0 WHERE state IN ('complete', 'running')"
            ).rowcount

    def retry(self, series: str) -> State | None:
        """Have a dead letter tried again; returns its new state, or ``None`` if it cannot be.

        One that has results is sent again; any other is looked at again, and counts as complete.
        """
        with self.lock:
            row = self.get(series)
            if row is None or row.state is not State.DEAD or not row.bytes:
                return None
            state = State.PRODUCED if json.loads(row.outputs) else State.RECEIVED
            changes = {"reason": None, "message": None, "transfer": None, "files": "[]", "changed_at": row.changed_at}
            self.move(row, state, attempts=0, next_at=0.0, unended=0, **changes)
            return state
