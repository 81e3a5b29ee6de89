# SPDX-License-Identifier: Apache-2.0
"""Decoders of compressed pixels: which one reads which transfer syntax, in one form for all.

The decoders are called directly, not through pydicom: MONAI Label comes with pydicom 2, which has no common interface
to them, and the interface of pydicom 3 logs header values. GDCM is not used, because it may end the process.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import islice

import numpy as np

from .jpeg_lossless import decode_jpeg_lossless
from .run_length import decode_run_lengths

try:
    from pydicom.encaps import get_frame
except ImportError:  # pydicom 2
    from pydicom.encaps import generate_pixel_data_frame

    def get_frame(buffer: bytes, index: int, *, number_of_frames: int) -> bytes:  # type: ignore[misc]
        """One frame of encapsulated pixels, as the function of this name in pydicom 3 returns it."""
        return next(islice(generate_pixel_data_frame(buffer, number_of_frames), index, None))


try:
    import jpeg_ls
except ImportError:
    jpeg_ls = None
try:
    import openjpeg
except ImportError:
    openjpeg = None  # type: ignore[assignment]
try:
    import PIL.Image as pillow
except ImportError:
    pillow = None  # type: ignore[assignment]

__all__ = ["RUN_LENGTHS", "decode_frame", "get_frame", "missing_package"]

RUN_LENGTHS = "1.2.840.10008.1.2.5"
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = (
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203",  # HTJ2K
)  # fmt: skip


def missing_package(syntax: str) -> str | None:
    """Name of the package that must be installed to decode a transfer syntax; empty if none is missing.

    Returns:
        ``None`` for a transfer syntax that no decoder reads.
    """
    if syntax in (RUN_LENGTHS, *JPEG_LOSSLESS):
        return ""
    for syntaxes, module, package in (
        (JPEG, pillow, "pillow"),
        (JPEG_LS, jpeg_ls, "pyjpegls"),
        (JPEG_2000, openjpeg, "pylibjpeg-openjpeg"),
    ):
        if syntax in syntaxes:
            return package if module is None else ""
    return None


def decode_frame(syntax: str, frame: bytes, shape: tuple[int, int], bits_allocated: int) -> tuple[np.ndarray, int]:
    """Decode one grey-scale image.

    Args:
        syntax: transfer syntax for which :func:`missing_package` is empty.
        frame: the encoded image.
        shape: rows and columns that it should have.
        bits_allocated: 8, 16 or 32.

    Returns:
        ``(rows, columns)`` int64 unsigned values, and their number of bits. A signed value appears as the unsigned
        number of the same bits (two's complement).

    Raises:
        NotImplementedError: for a variant that the decoder does not support.
        Exception: whatever a decoder raises on damaged data.
    """
    decode: Callable[[bytes], tuple[np.ndarray, int]]
    if syntax == RUN_LENGTHS:
        flat = decode_run_lengths(frame, math.prod(shape), bits_allocated // 8)
        return flat.reshape(shape), bits_allocated
    if syntax in JPEG_LOSSLESS:
        decode = decode_jpeg_lossless
    elif syntax in JPEG_LS:
        decode = _jpeg_ls
    elif syntax in JPEG_2000:
        decode = _jpeg_2000
    else:
        decode = _jpeg
    values, bits = decode(frame)
    return values.astype(np.int64) & (1 << bits) - 1, bits


def _jpeg_ls(frame: bytes) -> tuple[np.ndarray, int]:
    buffer, facts = jpeg_ls.decode_pixel_data(frame)
    if facts["components"] != 1:
        raise ValueError("an image must have one component")
    bits = int(facts["bits_per_sample"])
    values = np.frombuffer(buffer, dtype="u1" if bits <= 8 else "<u2")
    return values.reshape(facts["height"], facts["width"]), bits


def _jpeg_2000(frame: bytes) -> tuple[np.ndarray, int]:
    return openjpeg.decode(frame), int(openjpeg.get_parameters(frame)["precision"])


def _jpeg(frame: bytes) -> tuple[np.ndarray, int]:
    image = pillow.open(io.BytesIO(frame), formats=("JPEG",))
    if image.mode != "L":
        raise ValueError("an image must have one component")
    return np.asarray(image), 8
