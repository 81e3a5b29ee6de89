# SPDX-License-Identifier: Apache-2.0
"""Reproducible identifiers: the same input, model and settings always give the same UID."""

from __future__ import annotations

import hashlib
import uuid

__all__ = ["derived_uid", "is_derived_uid"]

ROOT, VERSION = "2.25.", 5  # the root of UIDs made from a UUID; the version of UUIDs made by hashing a name
DIGITS = len(str(2**128))


def derived_uid(*facts: str) -> str:
    """A UID under 2.25 (a UUID as a number), hashed from the facts in the given order.

    The facts are separated by a character that occurs in no UID, digest or version, so that ``("ab", "c")`` and
    ``("a", "bc")`` differ.
    """
    digest = hashlib.sha256("\n".join(facts).encode()).digest()[:16]
    return f"{ROOT}{uuid.UUID(bytes=digest, version=VERSION).int}"


def is_derived_uid(uid: str) -> bool:
    """Whether a UID has the form of those that :func:`derived_uid` makes."""
    number = uid.removeprefix(ROOT)
    if number == uid or not (number.isascii() and number.isdigit()) or len(number) > DIGITS or int(number) >= 2**128:
        return False
    return uuid.UUID(int=int(number)).version == VERSION
