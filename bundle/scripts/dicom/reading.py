# SPDX-License-Identifier: Apache-2.0
"""Voxels and geometry of one DICOM series, exactly."""

from __future__ import annotations

from ..volume import Volume
from .discovery import SeriesCandidate

__all__ = ["read_series"]


def read_series(series: SeriesCandidate) -> Volume:
    """Read one series."""
    raise NotImplementedError(series.key)
