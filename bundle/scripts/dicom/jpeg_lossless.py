# SPDX-License-Identifier: Apache-2.0
"""Decode lossless JPEG (ISO/IEC 10918-1, process 14), the most common compression in older archives, with numpy.

The free decoders either end the process on damaged data or have a licence that this project cannot use. The format is
simple: each value is predicted from its neighbours, and the difference is stored as a Huffman-coded number of bits,
followed by these bits (annex H).
"""

from __future__ import annotations

import struct

import numpy as np

__all__ = ["decode_jpeg_lossless"]

START_OF_FRAME, HUFFMAN_TABLES, START_OF_SCAN, RESTART_INTERVAL = 0xC3, 0xC4, 0xDA, 0xDD


def decode_jpeg_lossless(stream: bytes) -> tuple[np.ndarray, int]:
    """Decode one grey-scale image.

    Args:
        stream: the whole image, from its start marker to its end marker.

    Returns:
        ``(rows, columns)`` int64 unsigned values, and bits per value.

    Raises:
        ValueError: if the stream is damaged.
        NotImplementedError: for restart intervals or a point transform, which DICOM allows but no known writer uses.
    """
    tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    frame: tuple[int, int, int] | None = None
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], struct.unpack(">H", stream[at + 2 : at + 4])[0]
        segment = stream[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == START_OF_FRAME:
            bits, rows, columns, components = struct.unpack(">BHHB", segment[:6])
            if components != 1 or not 2 <= bits <= 16 or not rows * columns:
                raise ValueError("a frame must have one component of 2 to 16 bits")
            frame = (bits, rows, columns)
        elif marker == HUFFMAN_TABLES:
            tables |= _huffman_tables(segment)
        elif marker == RESTART_INTERVAL and any(segment):
            raise NotImplementedError("restart intervals")
        elif marker == START_OF_SCAN:
            if frame is None or len(segment) < 6 or segment[0] != 1:
                raise ValueError("a scan must follow its frame")
            if segment[5] & 0x0F:
                raise NotImplementedError("point transform")
            bits, rows, columns = frame
            codes = tables[segment[2] >> 4]
            differences = _differences(stream[at:], codes, rows * columns).reshape(rows, columns)
            return _undo_prediction(differences, segment[3], bits), bits
    raise ValueError("no scan")


def _huffman_tables(segment: bytes) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each table and each 16-bit word: length of the code that the word begins with (0: none), and its symbol."""
    tables = {}
    while len(segment) >= 17:
        name, counts, segment = segment[0], segment[1:17], segment[17:]
        lengths, symbols = np.zeros(1 << 16, dtype=np.uint8), np.zeros(1 << 16, dtype=np.uint8)
        code = 0
        for length, count in enumerate(counts, start=1):
            for symbol in segment[:count]:
                if symbol > 16 or code >= 1 << length:
                    raise ValueError("a Huffman table must be one of differences")
                first, last = code << (16 - length), (code + 1) << (16 - length)
                lengths[first:last], symbols[first:last] = length, symbol
                code += 1
            segment = segment[count:]
            code <<= 1
        tables[name & 0x0F] = (lengths, symbols)
    return tables


def _differences(data: bytes, codes: tuple[np.ndarray, np.ndarray], count: int) -> np.ndarray:
    """``(count,)`` differences between values and their predictions.

    A code starts where the one before it ends. So the table is looked up for every bit position at once, as if a code
    started there, and only the walk from one code to the next is a loop.
    """
    end = data.find(b"\xff\xd9")
    data = data[: end if end >= 0 else None].replace(b"\xff\x00", b"\xff")
    octets = np.frombuffer(data + bytes(4), dtype=np.uint8).astype(np.uint64)
    words = sum((octets[i : i + len(data)] << np.uint64(32 - 8 * i) for i in range(5)), start=np.uint64(0))
    shifts = np.arange(8, 0, -1, dtype=np.uint64)
    window = (np.asarray(words)[:, None] >> shifts).astype(np.uint32).ravel()  # the 32 bits from each bit on
    lengths, symbols = codes
    steps = (lengths + symbols % 16)[window >> 16].tobytes()  # 16 means a difference of 32768 and no further bits
    at, limit = 0, len(steps)
    if count > limit:
        raise ValueError("the scan ends early")
    starts = np.empty(count, dtype=np.int64)
    for i in range(count):
        if at >= limit or not steps[at]:
            raise ValueError("the scan ends early, or holds an invalid code")
        starts[i] = at
        at += steps[at]
    if at > limit:
        raise ValueError("the scan ends early")
    window = window[starts].astype(np.int64)
    length, symbol = lengths[window >> 16].astype(np.int64), symbols[window >> 16].astype(np.int64)
    extra = symbol % 16
    values = (window << length & 0xFFFFFFFF) >> (32 - extra)
    negative = (extra > 0) & (values < 1 << np.maximum(extra - 1, 0))
    return np.where(symbol == 16, 32768, np.where(negative, values - (1 << extra) + 1, values))


def _undo_prediction(differences: np.ndarray, predictor: int, bits: int) -> np.ndarray:
    """Values from differences, modulo 2^16 (H.1.2.1): a is left, b above, c above left."""
    differences[0, 0] += 1 << (bits - 1)
    if predictor == 1:
        differences[:, 0] = np.cumsum(differences[:, 0])
        return np.cumsum(differences, axis=1) & 0xFFFF
    if not 2 <= predictor <= 7:
        raise ValueError("a predictor must be 1 to 7")
    predict = {
        2: lambda a, b, c: b,
        3: lambda a, b, c: c,
        4: lambda a, b, c: a + b - c,
        5: lambda a, b, c: a + ((b - c) >> 1),
        6: lambda a, b, c: b + ((a - c) >> 1),
        7: lambda a, b, c: (a + b) >> 1,
    }[predictor]
    rows = [(np.cumsum(differences[0]) & 0xFFFF).tolist()]
    for line in differences[1:].tolist():
        above = rows[-1]
        row = [(line[0] + above[0]) & 0xFFFF]
        for k in range(1, len(line)):
            row.append((line[k] + predict(row[-1], above[k], above[k - 1])) & 0xFFFF)
        rows.append(row)
    return np.array(rows, dtype=np.int64)
