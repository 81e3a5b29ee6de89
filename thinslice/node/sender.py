# SPDX-License-Identifier: Apache-2.0
"""Send derived series to a destination, each image once, and ask for storage commitment if it is offered."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from .ledger import Ledger, Row, State
from .monitor import Counts
from .settings import Destination, Settings
from .spool import Spool

__all__ = ["Sender"]

SUCCESS = 0x0000
WARNINGS = range(0xB000, 0xC000)  # stored, with a warning
REQUEST_COMMITMENT = 1  # action type
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
log = logging.getLogger(__name__)


class _AwayError(Exception):
    """The destination cannot be reached, or does not behave as it must; the message says how."""


class _NotOfferedError(_AwayError):
    """The destination can be reached, but does not offer the service."""


class Sender:
    """Send all results for one destination.

    Args:
        title: AE title of the node.
        name: AE title of the destination.
        settings: settings of the node.
        spool: results and rows.
        counts: counters.
        context: for TLS; ``None`` if the destination does not use it.
    """

    def __init__(
        self,
        title: str,
        name: str,
        settings: Settings,
        spool: Spool,
        counts: Counts,
        context: ssl.SSLContext | None,
    ) -> None:
        self.title = title
        self.name = name
        self.destination: Destination = settings.destinations[name]
        self.retry = settings.retry
        self.spool = spool
        self.ledger: Ledger = spool.ledger
        self.counts = counts
        self.context = context

    def work(self) -> bool:
        """Send the series that has waited longest, or ask for its commitment; returns whether there was one."""
        due = "destination = ? AND next_at <= ?"
        now = self.ledger.clock()
        for state, do in (("sent", self._commit), ("produced", self._send)):
            for row in self.ledger.select(f"state = ? AND {due}", state, self.name, now)[:1]:
                try:
                    do(row)
                except Exception as error:  # one series must not block the others
                    found = f"unexpected {type(error).__name__}"
                    if row.state is State.SENT:
                        message = f"storage commitment must be requested, but: {found}; all images have been sent"
                        self._put_off(row, "NOT_COMMITTED", message)
                    else:
                        self._put_off(row, "NOT_SENT", f"an image must be sent, but: {found}")
                    raise
                return True
        return False

    # --- sending

    def _send(self, row: Row) -> None:
        files = self.spool.results(json.loads(row.outputs))
        if not files:  # the results were removed, so they are made again
            self.ledger.move(row, State.RECEIVED, unended=0)
            return
        try:
            self._store(row, files)
        except _AwayError as error:
            self.counts.add("send_failures_total")
            self._put_off(row, "NOT_SENT", str(error))
            return
        row = self.ledger.get(row.series) or row
        if row.state is not State.PRODUCED or row.sent < len(files):  # more images have arrived meanwhile
            return
        log.info("%s: sent: %d images to %s", row.series, len(files), self.name)
        if self.destination.commitment == "off":
            self._acknowledge(row, "C-STORE")
        else:
            self.ledger.move(row, State.SENT, attempts=0, next_at=0.0, reason=None, message=None)

    def _store(self, row: Row, files: Sequence[Path]) -> None:
        if row.sent == len(files):  # the node was killed after the last image
            return
        association = self._associate(sorted({_sop_class(file) for file in files[row.sent :]}))
        try:
            for number, file in enumerate(files[row.sent :], row.sent + 1):
                try:
                    status = association.send_c_store(dcmread(file), msg_id=number % 65535 + 1).get("Status")
                except (ValueError, RuntimeError) as error:  # no presentation context, or association lost
                    raise _AwayError(f"a destination must take every image, but: {type(error).__name__}") from error
                if status is None:
                    raise _AwayError("a destination must answer, but the association was lost; waiting for it")
                if status != SUCCESS and status not in WARNINGS:
                    raise _AwayError(
                        f"a destination must take every image, but answered {status:#06x}; look at its log"
                    )
                self.counts.add("images_sent_total")
                if not self.ledger.progress(row, number):
                    return
        finally:
            if association.is_established:
                association.release()

    # --- storage commitment

    def _commit(self, row: Row) -> None:
        """Ask for storage commitment, and again if the last request was not answered in time."""
        if row.attempts >= self.retry.commitment_attempts:
            self._uncommitted(
                row, row.message or "a receiver must answer a request for storage commitment, but did not"
            )
            return
        files = self.spool.results(json.loads(row.outputs))
        asked = replace(row, transfer=generate_uid(prefix=None))
        later = self.ledger.clock() + self.retry.commitment_seconds
        # before the request is sent, because the answer may arrive at once
        changes = {"transfer": asked.transfer, "attempts": row.attempts + 1, "next_at": later}
        self.ledger.move(row, State.SENT, reason=None, message=None, **changes)
        try:
            association = self._associate([StorageCommitmentPushModel])
        except _NotOfferedError:
            self._uncommitted(asked, "a receiver must offer storage commitment, but does not")
            return
        except _AwayError as error:
            self.counts.add("send_failures_total")
            self._put_off(asked, "NOT_COMMITTED", str(error))
            return
        try:
            request = Dataset()
            request.TransactionUID = asked.transfer
            request.ReferencedSOPSequence = [_reference(file) for file in files]
            status, _ = association.send_n_action(
                request, REQUEST_COMMITMENT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            code = status.get("Status")
        finally:
            if association.is_established:
                association.release()
        if code is not None and code != SUCCESS:
            self._uncommitted(asked, f"a receiver must grant storage commitment, but answered {code:#06x}")

    def committed(self, row: Row, safe: bool) -> None:
        """Handle the answer: all images are safe, or some must be sent again."""
        if safe:
            self._acknowledge(row, "storage commitment")
        else:
            message = "a receiver must keep what it is sent, but does not have all of it; it is sent again"
            again = replace(row, sent=0)
            later = self.ledger.clock() + self.retry.pause_seconds(row.attempts + 1)
            changes = {"attempts": row.attempts + 1, "next_at": later, "transfer": None}
            if self.ledger.move(again, State.PRODUCED, sent=0, reason="NOT_COMMITTED", message=message, **changes):
                log.error("%s: NOT_COMMITTED: %s", row.series, message)

    def _uncommitted(self, row: Row, message: str) -> None:
        if self.destination.commitment == "required":
            message += "; see its settings, or do without commitment"
            if self.ledger.move(row, State.DEAD, reason="NOT_COMMITTED", message=message):
                log.error("%s: dead: NOT_COMMITTED: %s", row.series, message)
        else:
            log.info("%s: %s", row.series, message)
            self._acknowledge(row, "C-STORE")

    # --- shared by both

    def _acknowledge(self, row: Row, how: str) -> None:
        changes = {"reason": None, "message": how, "attempts": 0, "next_at": 0.0, "transfer": None}
        if self.spool.settle(row, State.ACKNOWLEDGED, **changes):
            log.info("%s: acknowledged (%s)", row.series, how)

    def _put_off(self, row: Row, reason: str, message: str) -> None:
        attempts = row.attempts + 1
        if attempts >= self.retry.attempts:
            if self.ledger.move(row, State.DEAD, reason=reason, message=message, attempts=attempts):
                log.error("%s: dead: %s: %s", row.series, reason, message)
        elif self.ledger.put_off(row, self.retry.pause_seconds(attempts), reason, message):
            log.warning("%s: put off: %s: %s", row.series, reason, message)

    def _associate(self, classes: Sequence[str]) -> Any:
        ae = AE(self.title)
        ae.connection_timeout = CONNECT_SECONDS
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        for name in classes:
            ae.add_requested_context(name, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        tls = (self.context, self.destination.host) if self.context else None
        association = ae.associate(self.destination.host, self.destination.port, ae_title=self.name, tls_args=tls)
        if association.is_established:
            return association
        if association.is_rejected:
            raise _AwayError(f"{self.name} must know {self.title}, but refuses the association; see its settings")
        if association.rejected_contexts:
            raise _NotOfferedError(
                f"{self.name} must accept what it is offered, but takes none of it; see its settings"
            )
        raise _AwayError(f"{self.name} must be reachable, but does not answer; waiting for it")


def _sop_class(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID)


def _reference(file: Path) -> Dataset:
    header = dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item
