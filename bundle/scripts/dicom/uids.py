# SPDX-License-Identifier: Apache-2.0
"""Identifiers that follow from what they name: the same input, model and settings give the same UID again."""

from __future__ import annotations

import hashlib
import uuid

__all__ = ["derived_uid"]


def derived_uid(*facts: str) -> str:
    """A UID under 2.25 (a UUID as a number), hashed from the facts in order.

    The facts are separated by a character that no UID, digest or version holds, so that ``("ab", "c")`` and
    ``("a", "bc")`` differ.
    """
    digest = hashlib.sha256("\n".join(facts).encode()).digest()[:16]
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"
