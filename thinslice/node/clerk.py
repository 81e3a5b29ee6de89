# SPDX-License-Identifier: Apache-2.0
"""Decide when a series is complete and which rule takes it, and remove images that are no longer needed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from .ledger import Row, State
from .receiver import Sending
from .rules import first_match, read_facts
from .settings import Settings
from .spool import Spool

__all__ = ["Clerk"]

DAY_SECONDS = 86400
log = logging.getLogger(__name__)


class Clerk:
    """Check every row from time to time.

    Args:
        settings: settings of the node.
        spool: images and rows.
        sending: function from the hash of a series to what its senders are doing.
    """

    def __init__(self, settings: Settings, spool: Spool, sending: Callable[[str], Sending]) -> None:
        self.settings = settings
        self.spool = spool
        self.ledger = spool.ledger
        self.sending = sending

    def look(self) -> None:
        """Check all rows once."""
        complete = self.settings.complete
        now = self.ledger.clock()
        received = self.ledger.select("state = 'received'")
        moving = {row.study for row in received if not self._is_stable(row, now)}
        for row in received:
            if self._is_stable(row, now):
                if not (complete.whole_study and row.study in moving):
                    self._complete(row)
            elif row.unended and row.changed_at <= now - complete.interrupted_seconds and self._is_left(row):
                self._give_up(row)
        oldest = now - self.settings.disk.keep_dead_days * DAY_SECONDS
        for row in self.ledger.select("state = 'dead' AND bytes > 0 AND changed_at <= ?", oldest):
            if self.spool.settle(row, State.DEAD, changed_at=row.changed_at, files="[]"):
                log.info("%s: its images are removed, since the series was not retried", row.series)

    def _is_stable(self, row: Row, now: float) -> bool:
        """Whether no image has come for long enough, and the transfer ended well or went on to other series."""
        if row.unended and self.sending(row.series) is not Sending.ELSEWHERE:
            return False
        return row.changed_at <= now - self.settings.complete.stable_seconds

    def _is_left(self, row: Row) -> bool:
        """Whether no sender is left that might continue the transfer."""
        return self.sending(row.series) is Sending.GONE

    def _give_up(self, row: Row) -> None:
        message = "a transfer must end well, but this one was cut off and not continued; send the series again"
        if self.ledger.move(row, State.DEAD, reason="INTERRUPTED", message=message):
            log.warning("%s: dead: INTERRUPTED: %s", row.series, message)

    def _complete(self, row: Row) -> None:
        with self.ledger.lock:
            images = self.spool.images(row.series)
            names = {path.name for path in images}
            missing = row.names - names
            facts = read_facts(images)
            rule = first_match(self.settings.rules, facts) if facts else None
            files = json.dumps(sorted(names | row.names))
            if rule is None and facts is not None:
                changes = {"files": files, "reason": "NO_RULE", "message": "no rule takes it"}
                if self.spool.settle(row, State.IGNORED, **changes):
                    log.info("%s: ignored: no rule takes it", row.series)
            elif missing:
                message = (
                    f"a series must come as a whole, but {len(missing)} of its images came earlier and are no longer "
                    "kept; send the whole series again"
                )
                if self.ledger.move(row, State.DEAD, reason="INCOMPLETE", message=message):
                    log.warning("%s: dead: INCOMPLETE: %s", row.series, message)
            else:
                destination = self.settings.destination_of(self.settings.rules[rule or 0])
                if self.ledger.move(row, State.COMPLETE, files=files, rule=rule or 0, destination=destination):
                    log.info("%s: complete: %d images", row.series, len(images))
