# SPDX-License-Identifier: Apache-2.0
"""The facts of one DICOM file that decide what becomes of it, read without touching its pixels.

Nothing of a patient leaves this module in clear: identities are hashed, and no message quotes a value that is free
text.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    UID_dictionary,
)

from ..reasons import CaseError, Reason
from .tree import Stamp, stamp_of

__all__ = ["Header", "PixelElement", "hashed", "open_dicom", "quiet", "read_header", "uid_name"]

PYDICOM_LOG = logging.getLogger("pydicom")
PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
GE_IMAGE_KIND, GE_DIFFUSION, SIEMENS_DIFFUSION, SIEMENS_MOSAIC = 0x0043102F, 0x00431039, 0x0019100C, 0x0019100A
GE_COMPONENTS = {"1": "PHASE", "2": "REAL", "3": "IMAGINARY"}

# attributes of one volume's slices that must not differ: (keyword, relative tolerance; None for text)
ACQUISITION = (
    ("ScanningSequence", None),
    ("FlipAngle", 0.01),
    ("InversionTime", 0.01),
    ("MagneticFieldStrength", 0.01),
    ("DiffusionBValue", 0.01),
    ("KVP", 0.01),
    ("ConvolutionKernel", None),
)
# attributes that may tell time points apart where several images share a position
TIMES = ("AcquisitionNumber", "TriggerTime", "AcquisitionDateTime", "AcquisitionTime")
IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "IssuerOfPatientID", "StudyInstanceUID")
KEYWORDS = (
    *IDENTITY,
    *TIMES,
    *(keyword for keyword, _ in ACQUISITION),
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "DerivationCodeSequence",
    "EchoNumbers",
    "EchoTime",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "ImagesInAcquisition",
    "InstanceNumber",
    "LossyImageCompression",
    "Manufacturer",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RealWorldValueMappingSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SliceThickness",
    "SpecificCharacterSet",
    "TemporalPositionIdentifier",
)
VENDOR_TAGS = (0x00190010, SIEMENS_MOSAIC, SIEMENS_DIFFUSION, 0x00430010, GE_IMAGE_KIND, GE_DIFFUSION)
WANTED_TAGS: list[Any] = [*(cast(int, tag_for_keyword(keyword)) for keyword in KEYWORDS), *VENDOR_TAGS]


@dataclass(frozen=True)
class PixelElement:
    """Where the encoded pixels lie in the (inflated) file: offset and length in bytes, and how they are stored."""

    offset: int
    length: int
    vr: str
    encapsulated: bool


@dataclass(frozen=True)
class Header:
    """Facts of one file. A number that is absent, empty or not finite is None.

    Attributes:
        path: the file.
        stamp: its size and time of modification.
        error: why the file cannot be used although it belongs to a series, if so.
        identity: hash of whose and which study it is.
        patient: hash of the patient's identifier, or of the study where there is none.
        orientation: direction cosines along a row, then along a column (LPS).
        position: centre of the first voxel in mm (LPS).
        spacing: in mm, between rows, then between columns.
        padding: stored value that means "not measured", and the other end of a range of them, as PixelData holds them.
        volume_facts: must be equal in all slices of a volume: name and value (text, or number or None).
        times: candidates that may tell time points apart, by keyword; empty string where absent.
        diffusion: vendor's number that holds the b-value, in diffusion series only.
        units: units of a real-world value mapping, upper case.
        derivation: code values of how it was derived.
        component: vendor's statement that it holds phase, real or imaginary values.
        tiles: how many slices are tiled into the one image.
    """

    path: Path
    stamp: Stamp
    error: CaseError | None
    transfer_syntax: str
    sop_class: str
    sop_instance: str
    series: str
    frame_of_reference: str
    identity: str
    patient: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    slope: float
    intercept: float
    lossy: bool
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    padding: tuple[int, int] | None
    slice_thickness: float | None
    echo_number: str
    echo_time: float | None
    temporal_position: str
    times: dict[str, str]
    diffusion: str
    volume_facts: tuple[tuple[str, str | float | None], ...]
    instance_number: int | None
    images_in_acquisition: int | None
    units: tuple[str, ...]
    derivation: tuple[str, ...]
    component: str
    tiles: int
    pixels: PixelElement | None


def hashed(text: str) -> str:
    """First 16 hex digits of the SHA-256: what stands for an identity everywhere outside the file."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def uid_name(uid: str) -> str:
    """Name of a registered UID; any other is text that anybody may have put there."""
    return UID_dictionary[uid][0] if uid in UID_dictionary else "an unknown UID"


class BoundedFile:
    """A file in which nothing lies beyond the end.

    pydicom skips an element by seeking and reads a value by the length that the header claims; the first would pass
    over a file that is cut short, the second would allocate gigabytes for a few bytes.
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
        """Go to a place inside the file, or to its end where the place would lie beyond."""
        target = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self.size}[whence] + offset
        self.overrun = self.overrun or target > self.size
        return self._file.seek(min(target, self.size))


def _truncated(how: str) -> CaseError:
    return CaseError(Reason.TRUNCATED, f"a DICOM file must be complete, but it {how}; copy it again")


@contextmanager
def open_dicom(path: Path, max_inflated_bytes: int) -> Iterator[tuple[BoundedFile, UID, str, Stamp]]:
    """Open a file at the first element of its dataset.

    Args:
        path: a regular file.
        max_inflated_bytes: the most that a deflated dataset may inflate to.

    Yields:
        The (inflated) file, its transfer syntax, its SOP class by its file meta information, and size and time of the
        file on disk.

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
        if start[128:] != b"DICM":
            looks_like_one = start[:2] in (b"\x08\x00", b"\x02\x00")
            raise CaseError(
                Reason.UNREADABLE if looks_like_one else Reason.NOT_AN_IMAGE,
                "a DICOM file must begin with 128 bytes and DICM, but this one does not; "
                + ("write it again as a DICOM Part 10 file" if looks_like_one else "nothing to do"),
            )
        meta = read_dataset(cast(BinaryIO, bounded), False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = UID(_text(meta, "TransferSyntaxUID"))
        if not syntax:
            raise _truncated("ends before it states its transfer syntax")
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated = _inflate(bounded.read(max_inflated_bytes), max_inflated_bytes)
            bounded = BoundedFile(io.BytesIO(inflated), len(inflated))
        yield bounded, syntax, _text(meta, "MediaStorageSOPClassUID"), stamp


def _inflate(data: bytes, most: int) -> bytes:
    """A deflated dataset, unless it is a decompression bomb or cut short."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, most)
    except zlib.error as error:
        raise CaseError(
            Reason.UNREADABLE, "a deflated DICOM file must inflate, but it is damaged; copy it again"
        ) from (error)
    if inflater.unconsumed_tail or (len(data) == most and not inflater.eof):
        raise CaseError(Reason.TOO_LARGE, f"a deflated DICOM file must inflate to at most {most} bytes, got more")
    if not inflater.eof:
        raise _truncated("ends in the middle of deflated data")
    return inflated


def read_header(path: Path, max_inflated_bytes: int = 2**27) -> Header:
    """Read the facts of one file.

    Args:
        path: a regular file.
        max_inflated_bytes: see :func:`open_dicom`.

    Returns:
        The facts; ``error`` says why the file cannot be used, and ``series`` is empty where that cannot be told any
        more.

    Raises:
        CaseError: ``NOT_AN_IMAGE`` for what is no DICOM image, and ``TRUNCATED``, ``UNREADABLE``, ``TOO_LARGE``,
            ``NOT_A_FILE`` or ``CHANGED`` for what cannot be read at all.
    """
    try:
        with quiet(), open_dicom(path, max_inflated_bytes) as (file, syntax, sop_class, stamp):
            dataset, pixels, error = _scan(file, syntax)
            return _facts(path, stamp, syntax, sop_class, dataset, pixels, error)
    except CaseError:
        raise
    except FileNotFoundError as error:
        message = "a file must stay where it is while it is read, but it was taken away; run again"
        raise CaseError(Reason.CHANGED, message) from error
    except Exception as error:  # pydicom raises anything on damaged files, and its messages quote values
        message = f"a DICOM header must be readable, got {type(error).__name__}; copy or export it again"
        raise CaseError(Reason.UNREADABLE, message) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from talking about values: its warnings and its log quote them."""
    level = PYDICOM_LOG.level
    PYDICOM_LOG.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        PYDICOM_LOG.setLevel(level)


def _scan(file: BoundedFile, syntax: UID) -> tuple[Dataset, PixelElement | None, CaseError | None]:
    """Elements we want up to the pixels, where the pixels are, and what is wrong with the file's length."""
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
        specific_tags=WANTED_TAGS,
    )
    if file.overrun:
        return dataset, None, _truncated("ends in its header")
    if not found:
        return dataset, None, None
    offset, vr, length = found[0]
    encapsulated = length == UNDEFINED_LENGTH
    try:
        if encapsulated:
            length = _encapsulated_length(file, offset)
        elif offset + length > file.size:
            raise _truncated(f"ends {offset + length - file.size} bytes early")
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
        if tag == SEQUENCE_END and fragments >= 2:  # the offset table is the first item
            return file.tell() - offset
        if tag != ITEM or length == UNDEFINED_LENGTH or file.tell() + length > file.size:
            break
        file.seek(length, os.SEEK_CUR)
        fragments += 1
    raise _truncated("ends before the last fragment of its pixels")


def _facts(
    path: Path,
    stamp: Stamp,
    syntax: UID,
    sop_class: str,
    ds: Dataset,
    pixels: PixelElement | None,
    error: CaseError | None,
) -> Header:
    series = _text(ds, "SeriesInstanceUID")
    sop_class = _text(ds, "SOPClassUID") or sop_class
    if not sop_class or sop_class == MediaStorageDirectoryStorage:
        raise error or CaseError(Reason.NOT_AN_IMAGE, "an input must be an image, got a DICOMDIR or the like")
    rows, columns = _integer(ds, "Rows"), _integer(ds, "Columns")
    slope, intercept = _numbers(ds, "RescaleSlope") or (1.0,), _numbers(ds, "RescaleIntercept") or (0.0,)
    patient = _text(ds, "PatientID")
    header = Header(
        path=path,
        stamp=stamp,
        error=None,
        transfer_syntax=str(syntax),
        sop_class=sop_class,
        sop_instance=_text(ds, "SOPInstanceUID"),
        series=series,
        frame_of_reference=_text(ds, "FrameOfReferenceUID"),
        identity=hashed("\0".join(_text(ds, keyword) for keyword in IDENTITY)),
        patient=hashed(patient or _text(ds, "StudyInstanceUID")),
        modality=_text(ds, "Modality"),
        image_type=tuple(value.strip().upper() for value in _text(ds, "ImageType").split("\\")),
        rows=rows,
        columns=columns,
        samples=_integer(ds, "SamplesPerPixel", 1),
        frames=_integer(ds, "NumberOfFrames", 1),
        bits_allocated=_integer(ds, "BitsAllocated"),
        bits_stored=_integer(ds, "BitsStored"),
        high_bit=_integer(ds, "HighBit", _integer(ds, "BitsStored") - 1),
        signed=_integer(ds, "PixelRepresentation") == 1,
        photometric=_text(ds, "PhotometricInterpretation").upper(),
        slope=slope[0],
        intercept=intercept[0],
        lossy=_text(ds, "LossyImageCompression") == "01",
        orientation=_vector(ds, "ImageOrientationPatient", 6),
        position=_vector(ds, "ImagePositionPatient", 3),
        spacing=_vector(ds, "PixelSpacing", 2),
        padding=_padding(ds),
        slice_thickness=_finite(ds, "SliceThickness"),
        echo_number=_text(ds, "EchoNumbers"),
        echo_time=_finite(ds, "EchoTime"),
        temporal_position=_text(ds, "TemporalPositionIdentifier"),
        times={keyword: _text(ds, keyword) for keyword in TIMES},
        diffusion=_vendor_text(ds, GE_DIFFUSION),
        volume_facts=_volume_facts(ds),
        instance_number=_integer(ds, "InstanceNumber") if _finite(ds, "InstanceNumber") is not None else None,
        images_in_acquisition=_integer(ds, "ImagesInAcquisition") or None,
        units=_codes(ds, "RealWorldValueMappingSequence", "MeasurementUnitsCodeSequence"),
        derivation=_codes(ds, "DerivationCodeSequence"),
        component=GE_COMPONENTS.get(_vendor_text(ds, GE_IMAGE_KIND), ""),
        tiles=int(_vendor_text(ds, SIEMENS_MOSAIC) or 1),
        pixels=pixels,
    )
    return replace(header, error=error or _unusable(header, ds))


def _unusable(header: Header, ds: Dataset) -> CaseError | None:
    """Why the pixels of one file cannot be had exactly, as far as its header shows."""
    if header.pixels is None:
        return _truncated("ends before its pixels")
    if not header.sop_instance or not header.series:
        return CaseError(Reason.UNREADABLE, "an image must have the UIDs of its series and of itself; export it again")
    if not (math.isfinite(header.slope) and math.isfinite(header.intercept)) or header.slope == 0:
        found = f"slope {header.slope:g} and intercept {header.intercept:g}"
        return CaseError(Reason.NONFINITE, f"rescale must be finite and not 0, got {found}; export it again")
    if "ModalityLUTSequence" in ds:
        return CaseError(Reason.UNREADABLE, "a modality look-up table is not supported; export with a rescale slope")
    return None


def _padding(ds: Dataset) -> tuple[int, int] | None:
    """Stored values that are padding.

    Writers confuse the types US and SS of these two attributes, so a value outside the pixels' range is taken for the
    one of the same bits inside it.
    """
    ends = [_finite(ds, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return None
    span = 1 << _integer(ds, "BitsAllocated", 16)
    low = -(span // 2) if _integer(ds, "PixelRepresentation") == 1 else 0
    value, limit = ((int(end) - low) % span + low for end in (ends[0], ends[0] if ends[1] is None else ends[1]))
    return value, limit


def _volume_facts(ds: Dataset) -> tuple[tuple[str, str | float | None], ...]:
    facts: list[tuple[str, str | float | None]] = [
        (keyword, _text(ds, keyword) if tolerance is None else _finite(ds, keyword))
        for keyword, tolerance in ACQUISITION
    ]
    return (*facts, ("b-value", _vendor_text(ds, SIEMENS_DIFFUSION)))


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return "\\".join(str(one).strip(" \0") for one in value)
    return str(value).strip(" \0")


def _numbers(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """None where there is nothing; NaN where there is no number."""
    try:
        value = ds.get(keyword)
        if value is None or value == "" or value == []:
            return None
        return tuple(float(one) for one in (value if isinstance(value, MultiValue) else [value]))
    except (ValueError, TypeError, ArithmeticError):
        return (math.nan,)


def _finite(ds: Dataset, keyword: str) -> float | None:
    numbers = _numbers(ds, keyword)
    return numbers[0] if numbers and math.isfinite(numbers[0]) else None


def _integer(ds: Dataset, keyword: str, default: int = 0) -> int:
    number = _finite(ds, keyword)
    return default if number is None else int(number)


def _vector(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    numbers = _numbers(ds, keyword)
    return numbers if numbers and len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _codes(ds: Dataset, *path: str) -> tuple[str, ...]:
    """Code values of all items of a code sequence, which may lie in other sequences."""
    items = [ds]
    for keyword in path:
        items = [inner for item in items for inner in item.get(keyword) or []]
    return tuple(_text(item, "CodeValue").upper() for item in items)


def _vendor_text(ds: Dataset, tag: int) -> str:
    """First value of a private element as text, whether or not its type is known."""
    if tag not in ds:
        return ""
    value = ds[tag].value
    if isinstance(value, bytes):
        # little-endian short where it is not printable: implicit files do not state the type
        text = value.strip(b" \0")
        value = (
            text.decode("ascii") if text and text.isascii() and text[0] > 32 else int.from_bytes(value[:2], "little")
        )
    if isinstance(value, MultiValue | list | tuple):
        value = value[0] if value else ""
    return str(value).split("\\")[0].strip()
