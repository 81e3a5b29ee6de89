# SPDX-License-Identifier: Apache-2.0
"""Decode the stored values of one image exactly, whatever its encoding."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from ..reasons import CaseError, Reason
from .codecs import RUN_LENGTHS, decode_frame, get_frame, missing_package
from .headers import Header, uid_name
from .parsing import PixelElement

__all__ = ["crop_tile", "decode_pixels", "is_lossy", "is_padding", "padding_values", "scanner_units"]

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")


def decode_pixels(header: Header, data: bytes) -> np.ndarray:
    """Decode the image of a file, or one frame of it.

    Args:
        header: its facts.
        data: the encoded value of its PixelData element, with all frames.

    Returns:
        ``header.image_shape`` int64 stored values: high bits removed, sign extended, MONOCHROME1 inverted.

    Raises:
        CaseError: ``TRUNCATED``, ``NO_DECODER`` or ``UNREADABLE``.
    """
    if header.bits_allocated not in (8, 16, 32) or not 0 < header.bits_stored <= header.high_bit + 1 <= (
        header.bits_allocated
    ):
        shown = f"{header.bits_allocated} allocated, {header.bits_stored} stored, high bit {header.high_bit}"
        raise CaseError(Reason.UNREADABLE, f"pixels must have 8, 16 or 32 bits, got {shown}; export the series again")
    element = header.pixels
    if element is None:
        raise CaseError(Reason.TRUNCATED, "an image must have PixelData, but it has none; copy it again")
    syntax = UID(header.transfer_syntax)
    if (syntax in NATIVE) == element.encapsulated:
        message = "pixels must be encoded as their transfer syntax says, but they are not; export the series again"
        raise CaseError(Reason.UNREADABLE, message)
    if element.encapsulated:
        stored = _decode(header, syntax, data)
    else:
        stored = _native(header, element, data, big_endian=syntax == ExplicitVRBigEndian)
    low_bits = header.high_bit + 1 - header.bits_stored
    if element.encapsulated and syntax != RUN_LENGTHS:
        low_bits = 0
        _check_range(header, stored)
    return _significant(header, stored, low_bits)


def crop_tile(header: Header, image: np.ndarray) -> np.ndarray:
    """``(Rows, Columns)`` of one slice: its tile if the image is a mosaic, else the image itself."""
    if header.tile is None:
        return image
    side, index = header.tile
    top, left = index // side * header.rows, index % side * header.columns
    return image[top : top + header.rows, left : left + header.columns]


def _significant(header: Header, stored: Any, low_bits: int) -> Any:
    """Keep the significant bits with their sign, and invert MONOCHROME1; of an array or of one number."""
    span = 1 << header.bits_stored
    stored = (stored >> low_bits) & (span - 1)
    if header.signed:
        stored -= (stored >= span >> 1) * span
    if header.photometric == "MONOCHROME1":
        return (-1 if header.signed else span - 1) - stored
    return stored


def padding_values(header: Header) -> tuple[int, int] | None:
    """The two ends of the range of decoded values that mean "not measured"; ``None`` if there is none."""
    if header.padding is None:
        return None
    value, limit = (_significant(header, end, header.high_bit + 1 - header.bits_stored) for end in header.padding)
    return value, limit


def is_padding(header: Header, stored: np.ndarray) -> np.ndarray:
    """``(Rows, Columns)`` bool: true where decoded values are padding."""
    ends = padding_values(header)
    return np.zeros(stored.shape, dtype=bool) if ends is None else (stored >= min(ends)) & (stored <= max(ends))


def scanner_units(header: Header, stored: np.ndarray) -> np.ndarray:
    """Apply the rescale of this slice, in float64."""
    return stored * header.slope + header.intercept


def is_lossy(header: Header) -> bool:
    """Whether lossy compression ever changed the values, according to the header or the transfer syntax."""
    return header.lossy or header.transfer_syntax in LOSSY


def _native(header: Header, element: PixelElement, data: bytes, big_endian: bool) -> np.ndarray:
    size = header.bits_allocated // 8
    shape = header.image_shape
    pixels = shape[0] * shape[1]
    expected = pixels * size * header.frames
    if len(data) != expected + expected % 2:
        message = f"PixelData must have {expected} bytes, got {len(data)}; copy the file again"
        raise CaseError(Reason.TRUNCATED, message)
    if big_endian and size == 1 and element.vr == "OW":
        data = np.frombuffer(data, dtype="u2").byteswap().tobytes()
    dtype = f"{'>' if big_endian else '<'}u{size}"
    flat = np.frombuffer(data, dtype=dtype, count=pixels, offset=header.frame * pixels * size)
    return flat.reshape(shape).astype(np.int64)


def _decode(header: Header, syntax: UID, data: bytes) -> np.ndarray:
    """Values of one encapsulated image."""
    _check_decoder(syntax, header.bits_stored)
    try:
        frame = get_frame(data, header.frame, number_of_frames=header.frames)
        _check_codestream(header, syntax, frame)
        array, bits = decode_frame(syntax, frame, header.image_shape, header.bits_allocated)
    except CaseError:
        raise
    except NotImplementedError as error:
        message = f"there is no decoder for {uid_name(syntax)} with {error}; convert the series to an uncompressed one"
        raise CaseError(Reason.NO_DECODER, message) from None
    except Exception as error:  # decoders raise anything on damaged data
        what = f"{type(error).__name__} from {uid_name(syntax)}"
        raise CaseError(Reason.UNREADABLE, f"pixels must decode, got {what}; copy or export the series again") from None
    if array.shape != header.image_shape:
        message = f"pixels must decode to {header.image_shape}, got {array.shape}; export the series again"
        raise CaseError(Reason.UNREADABLE, message)
    if header.signed:
        array -= (array >= 1 << (bits - 1)) * (1 << bits)
    return array


def _check_decoder(syntax: UID, bits_stored: int) -> None:
    """Demand that there is a decoder for a transfer syntax.

    Raises:
        CaseError: ``NO_DECODER``.
    """
    missing = missing_package(syntax)
    if missing is None:
        message = f"there is no decoder for {uid_name(syntax)}; convert the series to an uncompressed one"
        raise CaseError(Reason.NO_DECODER, message)
    if syntax == JPEGExtended12Bit and bits_stored > 8:
        message = f"there is no decoder for {uid_name(syntax)} of 12 bits; convert the series to an uncompressed one"
        raise CaseError(Reason.NO_DECODER, message)
    if missing:
        message = f"{uid_name(syntax)} needs a decoder that is not installed; pip install {missing}"
        raise CaseError(Reason.NO_DECODER, message)


def _check_range(header: Header, stored: np.ndarray) -> None:
    """Demand that a decoder's values fit the bits that the header states; masking them would wrap."""
    half = 1 << (header.bits_stored - 1)
    low, high = (-half, half - 1) if header.signed else (0, 2 * half - 1)
    if stored.min() < low or stored.max() > high:
        found = f"{stored.min()} to {stored.max()}"
        message = f"decoded values must fit {header.bits_stored} bits, got {found}; export the series again"
        raise CaseError(Reason.UNREADABLE, message)


def _check_codestream(header: Header, syntax: UID, frame: bytes) -> None:
    """Demand that a JPEG-like stream is whole and of the stated size, before a decoder allocates what it asks for."""
    if syntax == RUN_LENGTHS:
        return
    _, end, padding = frame.rpartition(b"\xff\xd9")
    if not end or padding.strip(b"\0\xff"):
        raise CaseError(Reason.TRUNCATED, "compressed pixels must end with their end marker; copy the file again")
    rows, columns = _jpeg_2000_size(frame) if frame[:4] == b"\xff\x4f\xff\x51" else _jpeg_size(frame)
    if (rows, columns) != header.image_shape:
        message = f"compressed pixels must be {header.image_shape}, got {(rows, columns)}; export the series again"
        raise CaseError(Reason.UNREADABLE, message)


def _jpeg_2000_size(stream: bytes) -> tuple[int, int]:
    """Rows and columns from the SIZ segment (ISO/IEC 15444-1, A.5.1)."""
    columns, rows, left, top = struct.unpack(">LLLL", stream[8:24])
    return rows - top, columns - left


def _jpeg_size(stream: bytes) -> tuple[int, int]:
    """Rows and columns from the start of frame (ISO/IEC 10918-1, B.2.2; F7 in JPEG-LS); zeros without one."""
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack(">HH", stream[at + 5 : at + 9])
            return rows, columns
        at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    return 0, 0
