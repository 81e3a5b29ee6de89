# SPDX-License-Identifier: Apache-2.0
"""Why a case is not processed: one stable code per reason, and the exception that carries it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CaseError", "Reason"]


class Reason(StrEnum):
    """Stable reason codes; documented in ``docs/reasons.md``. A value never changes its meaning."""

    # voxels
    NONFINITE = "NONFINITE"
    CONSTANT = "CONSTANT"
    TRUNCATED = "TRUNCATED"
    NO_DECODER = "NO_DECODER"
    UNREADABLE = "UNREADABLE"
    # what it is
    NOT_3D = "NOT_3D"
    NOT_MR = "NOT_MR"
    NOT_A_CT = "NOT_A_CT"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    LOCALIZER = "LOCALIZER"
    QUANTITATIVE = "QUANTITATIVE"
    LABEL_MAP = "LABEL_MAP"
    ARCHIVE = "ARCHIVE"
    ALREADY_DERIVED = "ALREADY_DERIVED"
    MULTI_ECHO = "MULTI_ECHO"
    TIME_SERIES = "TIME_SERIES"
    ENHANCED_UNSUPPORTED = "ENHANCED_UNSUPPORTED"
    # where it is
    NO_GEOMETRY = "NO_GEOMETRY"
    GAP = "GAP"
    THIN_SLICES = "THIN_SLICES"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    NONUNIFORM = "NONUNIFORM"
    SHEARED = "SHEARED"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    MIXED_GEOMETRY = "MIXED_GEOMETRY"
    MIXED_ACQUISITION = "MIXED_ACQUISITION"
    STACKS_DIFFER = "STACKS_DIFFER"
    GUIDE_DIFFERS = "GUIDE_DIFFERS"
    ISOTROPIC = "ISOTROPIC"
    TOO_SMALL = "TOO_SMALL"
    TOO_LARGE = "TOO_LARGE"
    OUTSIDE_ENVELOPE = "OUTSIDE_ENVELOPE"
    WORSE_THAN_CUBIC = "WORSE_THAN_CUBIC"
    # whose it is
    MIXED_PATIENT = "MIXED_PATIENT"
    UID_CONFLICT = "UID_CONFLICT"
    DUPLICATE_NAME = "DUPLICATE_NAME"
    COUNT_MISMATCH = "COUNT_MISMATCH"
    CHANGED = "CHANGED"
    NOT_A_FILE = "NOT_A_FILE"
    # the machine
    UNWRITABLE = "UNWRITABLE"
    OOM = "OOM"
    TIMEOUT = "TIMEOUT"
    WORKER_DIED = "WORKER_DIED"
    INTERRUPTED = "INTERRUPTED"
    INTERNAL = "INTERNAL"


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
