# SPDX-License-Identifier: Apache-2.0
"""Open and parse one DICOM file safely: nothing is read beyond its end, and decompression has a limit."""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ..reasons import CaseError, Reason
from .tree import Stamp, stamp_of
from .values import text_of

__all__ = ["PixelElement", "open_dicom", "quiet", "scan_dataset", "truncated"]

PYDICOM_LOG = logging.getLogger("pydicom")
GZIP, GZIP_START = b"\x1f\x8b", 2**12  # its first bytes; so many bytes hold the start of its content
PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD


@dataclass(frozen=True)
class PixelElement:
    """Location of the encoded pixels in the (inflated) file: offset and length in bytes, and how they are stored."""

    offset: int
    length: int
    vr: str
    encapsulated: bool


class BoundedFile:
    """A file that cannot be read beyond its end.

    pydicom skips an element by seeking, and reads as many bytes as the header claims. Without a limit, the first would
    not notice that a file is cut short, and the second would allocate gigabytes for a file of a few bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.overrun = False
        self.tell = file.tell

    def read(self, count: int = -1) -> bytes:
        """At most ``count`` bytes, and never more than there are."""
        left = max(self.size - self._file.tell(), 0)
        return self._file.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position inside the file, or to its end if the position would lie beyond."""
        target = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self.size}[whence] + offset
        self.overrun = self.overrun or target > self.size
        return self._file.seek(min(target, self.size))


def truncated(how: str) -> CaseError:
    """The refusal of a file that is cut short."""
    return CaseError(Reason.TRUNCATED, f"a DICOM file must be complete, but it {how}; copy it again")


@contextmanager
def open_dicom(path: Path, max_inflated_bytes: int) -> Iterator[tuple[BoundedFile, UID, str, Stamp]]:
    """Open a file at the first element of its dataset.

    A file that gzip has compressed as a whole (``x.dcm.gz``) is decompressed.

    Args:
        path: a regular file.
        max_inflated_bytes: the most that a compressed file or a deflated dataset may inflate to.

    Yields:
        The (inflated) file, its transfer syntax, the SOP class in its file meta information, and size and time of
        modification of the file on disk.

    Raises:
        CaseError: ``NOT_A_FILE``, ``NOT_AN_IMAGE``, ``TRUNCATED``, ``TOO_LARGE`` or ``UNREADABLE``.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CaseError(Reason.NOT_A_FILE, "an input must be a regular file; put the file itself there")
        stamp = stamp_of(status)
        bounded = BoundedFile(cast(BinaryIO, file), stamp[0])
        start = bounded.read(132)
        if start[:2] == GZIP and _begins_like_dicom(start + bounded.read(GZIP_START)):
            bounded.seek(0)
            inflated = _inflate(bounded.read(max_inflated_bytes), max_inflated_bytes, zlib.MAX_WBITS | 16)
            bounded = BoundedFile(io.BytesIO(inflated), len(inflated))
            start = bounded.read(132)
        if start[128:] != b"DICM":
            looks_like_one = start[:2] in (b"\x08\x00", b"\x02\x00")
            raise CaseError(
                Reason.UNREADABLE if looks_like_one else Reason.NOT_AN_IMAGE,
                "a DICOM file must begin with 128 bytes and DICM, but this one does not; "
                + ("write it again as a DICOM Part 10 file" if looks_like_one else "nothing to do"),
            )
        meta = read_dataset(cast(BinaryIO, bounded), False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = UID(text_of(meta, "TransferSyntaxUID"))
        if not syntax:
            raise truncated("ends before it states its transfer syntax")
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated = _inflate(bounded.read(max_inflated_bytes), max_inflated_bytes, -zlib.MAX_WBITS)
            bounded = BoundedFile(io.BytesIO(inflated), len(inflated))
        yield bounded, syntax, text_of(meta, "MediaStorageSOPClassUID"), stamp


def _begins_like_dicom(data: bytes) -> bool:
    """Whether the decompressed beginning of a gzip file is that of a DICOM file."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, 132)[128:] == b"DICM"
    except zlib.error:
        return False


def _inflate(data: bytes, most: int, window_bits: int) -> bytes:
    """Inflate a compressed file or a deflated dataset, unless it is a decompression bomb or cut short."""
    inflater = zlib.decompressobj(window_bits)
    try:
        inflated = inflater.decompress(data, most)
    except zlib.error as error:
        raise CaseError(
            Reason.UNREADABLE, "a compressed DICOM file must inflate, but it is damaged; copy it again"
        ) from error
    if inflater.unconsumed_tail or (len(data) == most and not inflater.eof):
        raise CaseError(Reason.TOO_LARGE, f"a compressed DICOM file must inflate to at most {most} bytes, got more")
    if not inflater.eof:
        raise truncated("ends in the middle of compressed data")
    return inflated


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings and log quote values."""
    level = PYDICOM_LOG.level
    PYDICOM_LOG.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        PYDICOM_LOG.setLevel(level)


def scan_dataset(
    file: BoundedFile, syntax: UID, wanted: Sequence[Any] | None = None
) -> tuple[Dataset, PixelElement | None, CaseError | None]:
    """Read the elements before the pixels.

    Args:
        file: from :func:`open_dicom`.
        syntax: its transfer syntax.
        wanted: tags to keep; ``None`` keeps all.

    Returns:
        The elements, the location of the pixels, and the error of a file that is cut short; ``None`` where absent.
    """
    found: list[tuple[int, str, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            found.append((file.tell(), vr or "OW", length))
        return tag >= PIXEL_DATA

    dataset = read_dataset(
        cast(BinaryIO, file),
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        stop_when=at_pixels,
        specific_tags=None if wanted is None else list(wanted),
    )
    if file.overrun:
        return dataset, None, truncated("ends in its header")
    if not found:
        return dataset, None, None
    offset, vr, length = found[0]
    encapsulated = length == UNDEFINED_LENGTH
    try:
        if encapsulated:
            length = _encapsulated_length(file, offset)
        elif offset + length > file.size:
            raise truncated(f"ends {offset + length - file.size} bytes early")
    except CaseError as error:
        return dataset, None, error
    return dataset, PixelElement(offset, length, vr, encapsulated), None


def _encapsulated_length(file: BoundedFile, offset: int) -> int:
    """Bytes from the first item to the end of the sequence delimiter, walking over the fragments."""
    file.seek(offset)
    fragments = 0
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        tag = group << 16 | element
        if tag == SEQUENCE_END and fragments >= 2:  # the first item is the offset table
            return file.tell() - offset
        if tag != ITEM or length == UNDEFINED_LENGTH or file.tell() + length > file.size:
            break
        file.seek(length, os.SEEK_CUR)
        fragments += 1
    raise truncated("ends before the last fragment of its pixels")
