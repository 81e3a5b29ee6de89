# SPDX-License-Identifier: Apache-2.0
"""What a worker is told; light to import, so that whoever hands work out need not load a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..dicom.discovery import SeriesCandidate
from ..reasons import Reason
from .report import SeriesRecord, Status

__all__ = ["Task", "WorkerSpec"]

JOBS = ".jobs"


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

    @classmethod
    def of(cls, series: SeriesCandidate, source: str, output_dir: Path) -> Task:
        """For a series that was found in the folder ``source`` and whose result goes into ``output_dir``."""
        record = SeriesRecord(
            series=series.key,
            source=source,
            n_files=len(series.files) + len(series.copies),
            n_slices_in=len(series.files),
            warnings=[str(warning) for warning in series.warnings],
        )
        return cls(series, record, output_dir / series.key, output_dir / JOBS)

    def failed(self, reason: Reason, message: str) -> SeriesRecord:
        """The record where whoever should do it could not."""
        return replace(self.record, status=Status.FAILED, reason=str(reason), message=message)

    def died(self, how: str) -> SeriesRecord:
        """The record where whoever did it died of it."""
        return self.failed(Reason.WORKER_DIED, f"a worker must survive a series, but the worker died ({how})")
