# SPDX-License-Identifier: Apache-2.0
"""Why a case is not processed: one stable code per reason, and the exception that carries it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CaseError", "Reason"]


class Reason(StrEnum):
    """Stable reason codes; documented in ``docs/reasons.md``. A value never changes its meaning."""

    NONFINITE = "NONFINITE"
    CONSTANT = "CONSTANT"
    ISOTROPIC = "ISOTROPIC"
    NO_GEOMETRY = "NO_GEOMETRY"
    NOT_3D = "NOT_3D"
    UNREADABLE = "UNREADABLE"
    TOO_SMALL = "TOO_SMALL"
    TOO_LARGE = "TOO_LARGE"


class CaseError(Exception):
    """One case cannot be processed; the others can.

    Args:
        reason: stable code.
        message: one line for a person, without patient data: what must hold, what was found, what to do.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[CaseError], tuple[Reason, str]]:
        return type(self), (self.reason, self.message)
