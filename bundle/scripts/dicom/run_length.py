# SPDX-License-Identifier: Apache-2.0
"""Decode run lengths (RLE Lossless, PS3.5 annex G), byte plane by byte plane."""

from __future__ import annotations

import struct

import numpy as np

__all__ = ["decode_run_lengths"]


def decode_run_lengths(stream: bytes, pixels: int, bytes_per_pixel: int) -> np.ndarray:
    """Decode one grey-scale image.

    Args:
        stream: header of 64 bytes, then one segment for each byte of a pixel, the most significant first.
        pixels: number of pixels in the image.
        bytes_per_pixel: 1, 2 or 4.

    Returns:
        ``(pixels,)`` int64 unsigned values.

    Raises:
        ValueError: if the stream is damaged.
    """
    if len(stream) < 64:
        raise ValueError("a header must have 64 bytes")
    count, *offsets = struct.unpack("<16L", stream[:64])
    if count != bytes_per_pixel:
        raise ValueError("there must be one segment for each byte of a pixel")
    ends = [*offsets[1:count], len(stream)]
    values = np.zeros(pixels, dtype=np.int64)
    for start, end in zip(offsets[:count], ends, strict=True):
        plane = _decode_segment(stream[start:end], pixels)
        values = values << 8 | np.frombuffer(plane, dtype=np.uint8, count=pixels)
    return values


def _decode_segment(segment: bytes, length: int) -> bytes:
    """Decode one byte plane; bytes after its end are padding."""
    result = bytearray()
    at = 0
    while len(result) < length and at < len(segment):
        code = segment[at]
        if code < 128:
            result += segment[at + 1 : at + 2 + code]
            at += 2 + code
        elif code > 128:
            result += segment[at + 1 : at + 2] * (257 - code)
            at += 2
        else:
            at += 1
    if len(result) < length:
        raise ValueError("a segment must hold a byte for each pixel")
    return bytes(result[:length])
