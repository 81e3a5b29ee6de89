# SPDX-License-Identifier: Apache-2.0
"""Values of DICOM elements as plain Python. Absent, empty or impossible values become None, never an exception."""

from __future__ import annotations

import math
import struct
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

__all__ = ["codes_of", "finite_of", "integer_of", "numbers_of", "text_of", "vector_of", "vendor_numbers", "vendor_text"]


def text_of(ds: Dataset, keyword: str) -> str:
    """All values of an element as one text; empty if there is none."""
    value = ds.get(keyword)
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return "\\".join(str(one).strip(" \0") for one in value)
    return str(value).strip(" \0")


def numbers_of(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """All values as numbers, whatever type the file states. None if there are none; NaN for one that is no number."""
    try:
        value = ds.get(keyword)
        if isinstance(value, bytes):
            value = value.decode("ascii")
        if isinstance(value, str):  # a wrong type, such as UT for PixelSpacing
            value = [one.strip(" \0") for one in value.split("\\")] if value.strip(" \0") else None
        if value is None or value == []:
            return None
        return tuple(float(one) for one in (value if isinstance(value, MultiValue | list) else [value]))
    except (ValueError, TypeError, ArithmeticError):
        return (math.nan,)


def finite_of(ds: Dataset, keyword: str) -> float | None:
    """The first value, if it is a finite number."""
    numbers = numbers_of(ds, keyword)
    return numbers[0] if numbers and math.isfinite(numbers[0]) else None


def integer_of(ds: Dataset, keyword: str, default: int = 0) -> int:
    """The first value as a whole number."""
    number = finite_of(ds, keyword)
    return default if number is None else int(number)


def vector_of(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """All values, if they are ``count`` finite numbers."""
    numbers = numbers_of(ds, keyword)
    return numbers if numbers and len(numbers) == count and all(map(math.isfinite, numbers)) else None


def codes_of(ds: Dataset, *path: str) -> tuple[str, ...]:
    """Code values of all items of a code sequence, which may be nested in other sequences."""
    items = [ds]
    for keyword in path:
        items = [inner for item in items for inner in item.get(keyword) or []]
    return tuple(text_of(item, "CodeValue").upper() for item in items)


def vendor_text(ds: Dataset, tag: int) -> str:
    """First value of a private element as text, even if its type is unknown."""
    if tag not in ds:
        return ""
    value = ds[tag].value
    if isinstance(value, bytes):
        # if it is not printable, it is a little-endian short: implicit files do not state the type
        text = value.strip(b" \0")
        value = (
            text.decode("ascii") if text and text.isascii() and text[0] > 32 else int.from_bytes(value[:2], "little")
        )
    if isinstance(value, MultiValue | list | tuple):
        value = value[0] if value else ""
    return str(value).split("\\")[0].strip()


def vendor_numbers(ds: Dataset, *tags: int) -> tuple[float, ...] | None:
    """Finite numbers of private elements in turn, even if their type is unknown; None if there are none."""
    numbers: list[float] = []
    for tag in tags:
        value = ds[tag].value if tag in ds else None
        try:
            if isinstance(value, bytes):
                value = _numbers_in(value)
            elif isinstance(value, str):
                value = value.split("\\")
            numbers.extend(map(float, value if isinstance(value, MultiValue | list | tuple) else [value]))
        except (ValueError, TypeError, struct.error):
            return None
    return tuple(numbers) if numbers and all(map(math.isfinite, numbers)) else None


def _numbers_in(value: bytes) -> list[Any]:
    """Text, doubles or floats: implicit files do not state the type of private elements."""
    text = value.strip(b" \0")
    if text and all(32 <= byte < 127 for byte in text):
        return text.decode("ascii").split("\\")
    size, kind = (8, "d") if len(value) % 8 == 0 else (4, "f")
    return list(struct.unpack(f"<{len(value) // size}{kind}", value))
