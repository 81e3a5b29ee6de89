# SPDX-License-Identifier: Apache-2.0
"""Store received images: one folder per series, with files named by their content, so that copies are not stored.

::

    SPOOL/
      state.sqlite           the ledger
      in/<series>/*.dcm      received images: hash of the instance UID, hash of what the image says
      out/<series>/          what the batch makes of it (docs/batch.md)
      out/.jobs/             when each series was first derived, so that doing it again gives the same bytes
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from .ledger import SETTLED, Ledger, Row, State
from .settings import Disk

__all__ = ["NoRoomError", "Spool"]

GIB = 2**30
# a copy of an image of a series in one of these states changes nothing
AT_REST = (State.COMPLETE, State.RUNNING, State.PRODUCED, State.SENT, *SETTLED)


class NoRoomError(Exception):
    """An image cannot be kept, because the disk or the node's share of it is full."""


class Spool:
    """Received images and results.

    Args:
        root: folder that only the node uses; made if it does not exist.
        disk: how much of the disk it may use.

    Attributes:
        fault: why the last image could not be written, or ``None``.
    """

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root = root
        self.disk = disk
        self.fault: str | None = None
        self.inbox = root / "in"
        self.out = root / "out"
        for folder in (root, self.inbox, self.out):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ledger = Ledger(root / "state.sqlite")

    def folder(self, series: str) -> Path:
        """Folder of the images of a series."""
        return self.inbox / series

    def images(self, series: str) -> list[Path]:
        """The images of a series, without partly written ones."""
        return sorted(self.folder(series).glob("*.dcm"))

    def results(self, keys: list[str]) -> list[Path]:
        """Derived images of the volumes, in the order in which they are sent."""
        return [path for key in keys for path in sorted((self.out / key / "dicom").glob("*.dcm"))]

    def free_bytes(self) -> int:
        """Free space of the file system."""
        return shutil.disk_usage(self.root).free

    def room_for(self, size: int) -> bool:
        """Whether so many more bytes may be written."""
        return self.free_bytes() - size >= self.disk.free_gib * GIB

    def store(self, series: str, study: str, instance: str, data: bytes) -> bool:
        """Store an image. When this returns, the image and the state of its series are on the disk.

        Args:
            series: hash of its series UID.
            study: hash of its study UID.
            instance: its SOPInstanceUID.
            data: content of the file.

        Returns:
            Whether it was new. A copy of an image that the node has, or has dealt with, is not stored again.

        Raises:
            NoRoomError: if it cannot be stored.
        """
        name = f"{_digest(instance.encode())}-{_digest(_words(data))}.dcm"
        final = self.folder(series) / name
        part = self.inbox / f".part-{name}-{os.urandom(4).hex()}"
        try:
            if self._is_copy(series, study, final):
                return False
            if not self.room_for(len(data)):
                raise NoRoomError(f"free space must stay above {self.disk.free_gib:g} GiB")
            if self.ledger.spool_bytes() + len(data) > self.disk.spool_gib * GIB:
                raise NoRoomError(f"the spool must stay below {self.disk.spool_gib:g} GiB")
            _write(part, data)
            with self.ledger.lock:
                if self._is_copy(series, study, final):
                    return False
                final.parent.mkdir(mode=0o700, exist_ok=True)
                os.rename(part, final)
                _sync(final.parent)
                _sync(self.inbox)
                self.ledger.arrived(series, study, len(data))
        except (OSError, sqlite3.Error) as error:
            self.fault = str(error.strerror if isinstance(error, OSError) else error)
            raise NoRoomError(f"the spool must be writable, got: {self.fault}") from error
        finally:
            part.unlink(missing_ok=True)
        self.fault = None
        return True

    def _is_copy(self, series: str, study: str, final: Path) -> bool:
        """Whether the node has an image already. Unless its series is at rest, a copy begins a new transfer of it."""
        with self.ledger.lock:
            row = self.ledger.get(series)
            if row is None:
                return False
            if row.state in SETTLED:
                return final.name in row.names
            if not final.exists():
                return False
            if row.state not in AT_REST:
                self.ledger.arrived(series, study, 0)
            return True

    def settle(self, row: Row, state: State, **changes: object) -> bool:
        """Change a row and remove its images and results; returns whether the row was as expected."""
        with self.ledger.lock:
            if not self.ledger.move(row, state, bytes=0, outputs="[]", **changes):
                return False
            self.remove_images(row.series)
            self.remove_results(json.loads(row.outputs))
            return True

    def remove_images(self, series: str) -> None:
        """Remove the images of a series."""
        shutil.rmtree(self.folder(series), ignore_errors=True)

    def remove_results(self, keys: list[str]) -> None:
        """Remove the results of a series."""
        for key in keys:
            shutil.rmtree(self.out / key, ignore_errors=True)

    def tidy(self) -> None:
        """At the start, remove what a killed node left behind, and make a row for every image without one."""
        for part in self.inbox.glob(".part-*"):
            part.unlink()
        for folder in self.inbox.iterdir():
            row = self.ledger.get(folder.name)
            if row is not None and row.state in SETTLED:
                self.remove_images(folder.name)
            elif row is None:
                size = sum(path.stat().st_size for path in self.images(folder.name))
                self.ledger.arrived(folder.name, "", size)


def _words(data: bytes) -> bytes:
    """What an image says, however the sender encodes it.

    The same image comes with explicit VR from a scanner and with implicit VR from an archive, with group lengths or
    without, and private elements without their VR. All else is compared, pixels included.
    """
    try:
        return b"".join(_elements(dcmread(io.BytesIO(data))))
    except Exception:  # whatever a damaged file makes pydicom raise: such a one equals only itself
        return data


def _elements(dataset: Dataset) -> Iterator[bytes]:
    for element in dataset:
        if element.tag.is_private or element.tag.element == 0:  # 0: length of the group
            continue
        yield f"\n{element.tag}".encode()
        if element.VR == "SQ":
            for item in element.value:
                yield b"\n>"
                yield from _elements(item)
        else:
            yield element.value if isinstance(element.value, bytes) else str(element.value).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
