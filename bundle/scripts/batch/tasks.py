# SPDX-License-Identifier: Apache-2.0
"""What a worker is told; light to import, so that whoever hands work out need not load a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dicom.discovery import SeriesCandidate
from .report import SeriesRecord

__all__ = ["Task", "WorkerSpec"]


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made from, and what it may do.

    Attributes:
        configs: inference config files of the bundle, merged in order.
        ids: overrides of them; nested ids with ``::``.
        bundle_root: the bundle.
        pictures: slices per plane for the report; 0 makes none.
        threads: of torch; ``None`` leaves torch's own choice.
        timeout_seconds: for one series, and for a worker to become ready.
        series_per_worker: a process is replaced after so many.
        memory_limit_bytes: resident memory of a process, and of what it may allocate on top of the loaded model;
            ``None`` sets no limit.
    """

    configs: tuple[str, ...]
    ids: Mapping[str, Any]
    bundle_root: str
    pictures: int = 0
    threads: int | None = None
    timeout_seconds: float = 3600
    series_per_worker: int = 20
    memory_limit_bytes: int | None = None


@dataclass(frozen=True)
class Task:
    """One series to do.

    Attributes:
        series: what discovery found.
        record: what is known of it already.
        final: its folder in ``output_dir``, where an earlier run may have left a result.
        jobs: folder where moments of derivation are kept, so that a run that goes on gives the same bytes.
    """

    series: SeriesCandidate
    record: SeriesRecord
    final: Path
    jobs: Path
