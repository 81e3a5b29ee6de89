# SPDX-License-Identifier: Apache-2.0
"""Receive images from known callers only; "success" is sent after the image and its row are on the disk."""

from __future__ import annotations

import io
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary

from pydicom import dcmread
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer
from scripts.dicom.headers import hashed

from .monitor import Counts
from .spool import NoRoomError, Spool

__all__ = ["Receiver", "Sending"]

SUCCESS, NO_ROOM, NOT_UNDERSTOOD, FAILED = 0x0000, 0xA700, 0xC000, 0x0110
NOT_RECOGNISED = (0x01, 0x01, 0x03)  # permanent rejection by the service user: calling AE title not recognised
IDENTIFIERS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
HANDSHAKE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Sending(StrEnum):
    """What the senders of a series are doing."""

    NOW = "now"  # an association is open, and its last image was of this series
    ELSEWHERE = "elsewhere"  # an association is open, but has gone on to another series
    GONE = "gone"


@dataclass
class _Transfer:
    """The series that one association has sent, those of them of which an image was not kept, and the last one."""

    series: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    last: str = ""


class _Server(ThreadedAssociationServer):
    """Server that does a TLS handshake in the thread of its connection, so that a stalled one blocks no other."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = self.socket.accept()  # type: ignore[union-attr]
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            before = request.gettimeout()
            try:
                request.settimeout(HANDSHAKE_SECONDS)
                request.do_handshake()
                request.settimeout(before)
            except OSError as error:
                self.ae.counts.add("associations_rejected_total")  # type: ignore[attr-defined]
                log.warning("a connection is refused: TLS handshake failed (%s)", type(error).__name__)
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)


class Receiver:
    """C-ECHO, C-STORE and answers about storage commitment.

    Args:
        title: AE title of the node, by which callers must address it.
        callers: AE titles that may associate, with the address they must come from, or ``None`` for any.
        spool: where images are stored.
        counts: counters.
        committed: called with the UID of a request for storage commitment, and whether all of it is safe.
        idle_seconds: an association that is silent for longer is ended, and counts as cut off.
    """

    def __init__(
        self,
        title: str,
        callers: Mapping[str, str | None],
        spool: Spool,
        counts: Counts,
        committed: Callable[[str, bool], None],
        idle_seconds: float,
    ) -> None:
        self.spool = spool
        self.callers = dict(callers)
        self.counts = counts
        self.committed = committed
        self.lock = threading.Lock()
        self.transfers: WeakKeyDictionary[Any, _Transfer] = WeakKeyDictionary()
        self.server: ThreadedAssociationServer | None = None
        self.ae = AE(title)
        self.ae.counts = counts  # type: ignore[attr-defined]
        self.ae.require_called_aet = True
        self.ae.require_calling_aet = list(self.callers)
        self.ae.network_timeout = idle_seconds
        self.ae.maximum_associations = 32
        for context in AllStoragePresentationContexts:
            self.ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        self.ae.add_supported_context(Verification)
        self.ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)

    def start(self, address: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Start listening; returns the port, which the system chooses for 0.

        Raises:
            OSError: if the port is not available.
        """
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_EVENT_REPORT, self._report),
            (evt.EVT_RELEASED, self._released),
        ]
        self.server = self.ae.make_server(
            (address, port), evt_handlers=handlers, ssl_context=context, server_class=_Server
        )
        threading.Thread(target=self.server.serve_forever, args=(0.2,), name="receiver", daemon=True).start()
        self.ae._servers.append(self.server)  # as AE.start_server does
        return int(self.server.server_address[1])

    def stop(self) -> None:
        """Stop listening, and end open associations."""
        self.ae.shutdown()

    def sending(self, series: str) -> Sending:
        """Whether a sender of a series is still connected, and whether its last image was of this series."""
        with self.lock:
            there = [one for association, one in self.transfers.items() if association.is_alive()]
        if any(one.last == series for one in there):
            return Sending.NOW
        return Sending.ELSEWHERE if any(series in one.series for one in there) else Sending.GONE

    # --- called by pynetdicom in the thread of the association

    def _requested(self, event: evt.Event) -> None:
        """Refuse a known title from an unknown address."""
        title, address = _title(event), event.assoc.requestor.address
        wanted = self.callers.get(title)
        if wanted is not None and not _same_place(wanted, address):
            event.assoc.acse.send_reject(*NOT_RECOGNISED)
            self._rejected(event)
            event.assoc.kill()

    def _rejected(self, event: evt.Event) -> None:
        self.counts.add("associations_rejected_total")
        log.warning("an association is refused: AE title %r from %s", _title(event), event.assoc.requestor.address)

    def _store(self, event: evt.Event) -> int:
        try:
            data = event.encoded_dataset()
            facts = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(IDENTIFIERS))
            study, series, instance = (str(facts[name].value or "") for name in IDENTIFIERS)
        except Exception:  # pydicom may raise anything for a damaged object
            study = series = instance = ""
        if not series or not instance:
            self.counts.add("images_refused_total")
            log.warning("an image is refused: it lacks the UID of its study, of its series or of itself")
            return NOT_UNDERSTOOD
        key = hashed(series)
        transfer = self._transfer(event.assoc)
        transfer.series.add(key)
        transfer.last = key
        try:
            new = self.spool.store(key, hashed(study), instance, data)
        except NoRoomError as error:
            self.counts.add("images_refused_total")
            log.error("%s: an image is refused: %s", key, error)
            transfer.refused.add(key)
            return NO_ROOM
        self.counts.add("images_received_total")
        self.counts.add("images_copies_total", 0 if new else 1)
        return SUCCESS

    def _report(self, event: evt.Event) -> int:
        """Handle an answer about storage commitment: event type 1 means that all are safe, 2 that some are not."""
        try:
            transaction = str(event.event_information.TransactionUID)
        except Exception:
            return FAILED
        self.committed(transaction, event.event_type == 1)
        return SUCCESS

    def _transfer(self, association: Any) -> _Transfer:
        with self.lock:
            return self.transfers.setdefault(association, _Transfer())

    def _released(self, event: evt.Event) -> None:
        transfer = self._transfer(event.assoc)
        self.spool.ledger.ended(transfer.series - transfer.refused)


def _title(event: evt.Event) -> str:
    """AE title of the caller."""
    request = event.assoc.requestor.primitive
    return str(request.calling_ae_title) if request else ""


def _same_place(name: str, address: str) -> bool:
    """Whether a host name or address of the settings is the address of a connection."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        return False
    return address.removeprefix("::ffff:") in found
