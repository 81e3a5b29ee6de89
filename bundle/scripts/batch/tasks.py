# SPDX-License-Identifier: Apache-2.0
"""Tasks and settings of a worker. This module imports little, so that distributing work loads no network."""

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
    """Settings and limits of a worker.

    Attributes:
        configs: inference config files of the bundle, merged in order.
        ids: overrides of their ids; nested ids with ``::``.
        bundle_root: the bundle.
        pictures: number of slices per plane for the report; 0 makes none.
        threads: number of torch threads; ``None`` leaves the choice to torch.
        timeout_seconds: limit for one series, and for a worker to become ready.
        series_per_worker: number of series after which a process is replaced.
        memory_limit_bytes: limit on the resident memory of a process, and on what it may allocate in addition to the
            loaded model; ``None`` sets no limit.
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
        record: what is known before any pixel is read.
        final: its folder in ``output_dir``, where an earlier run may have left a result.
        jobs: folder for the times of derivation, so that a run that is resumed gives the same bytes.
    """

    series: SeriesCandidate
    record: SeriesRecord
    final: Path
    jobs: Path

    @classmethod
    def of(cls, series: SeriesCandidate, source: str, output_dir: Path) -> Task:
        """The task of a series that was found in the folder ``source`` and whose result goes into ``output_dir``."""
        record = SeriesRecord(
            series=series.key,
            source=source,
            n_files=len(series.files) + len(series.copies),
            n_slices_in=len(series.files),
            warnings=[str(warning) for warning in series.warnings],
        )
        return cls(series, record, output_dir / series.key, output_dir / JOBS)

    def failed(self, reason: Reason, message: str) -> SeriesRecord:
        """The record of a series that could not be done."""
        return replace(self.record, status=Status.FAILED, reason=str(reason), message=message)

    def died(self, how: str) -> SeriesRecord:
        """The record of a series whose worker died."""
        return self.failed(Reason.WORKER_DIED, f"a worker must survive a series, but the worker died ({how})")
