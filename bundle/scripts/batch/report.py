# SPDX-License-Identifier: Apache-2.0
"""What a batch says about itself: ``report.json`` and ``report.csv``; fields in ``docs/batch.md``."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..files import write_json, write_text

__all__ = ["SCHEMA_VERSION", "SeriesRecord", "Status", "exit_code", "make_report", "write_report"]

SCHEMA_VERSION = "2.0"


class Status(StrEnum):
    """What became of a series."""

    OK = "ok"
    SKIPPED = "skipped"  # done by an earlier run, and nothing has changed since
    REFUSED = "refused"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OOM = "oom"


@dataclass
class SeriesRecord:
    """One discovered series; plain JSON types, no patient data but ``source``, which is a path of the caller's own."""

    series: str
    source: str
    status: str = Status.FAILED
    reason: str | None = None
    message: str | None = None
    n_files: int = 0
    n_slices_in: int = 0
    n_slices_out: int = 0
    geometry_before: dict[str, Any] | None = None
    geometry_after: dict[str, Any] | None = None
    nifti: str | None = None
    acquired: str | None = None
    disagreement: str | None = None
    dicom_dir: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    input_sha256: str | None = None
    model_sha256: str | None = None
    config_sha256: str | None = None
    derived_at: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    clipped_voxels: int | None = None
    data_consistency_residual: float | None = None
    warnings: list[str] = field(default_factory=list)


def exit_code(records: Sequence[SeriesRecord], signal_number: int | None = None) -> int:
    """0 all done, 3 some series without result, 4 nothing to process, 128 + the signal that ended the run."""
    if signal_number is not None:
        return 128 + signal_number
    if not records:
        return 4
    return 0 if all(record.status in (Status.OK, Status.SKIPPED) for record in records) else 3


def make_report(
    records: Sequence[SeriesRecord], files: Sequence[Mapping[str, str]], facts: Mapping[str, Any], code: int
) -> dict[str, Any]:
    """The report as plain JSON types.

    Args:
        records: one per discovered series.
        files: ``path``, ``reason`` and ``message`` of each file of no series.
        facts: of the run as a whole; they go into the summary.
        code: exit code.
    """
    statuses = Counter(str(record.status) for record in records)
    reasons = Counter(record.reason for record in records if record.reason)
    summary = {
        "exit_code": code,
        "series": len(records),
        "files": sum(record.n_files for record in records) + len(files),
        **{str(status): statuses[status] for status in Status},
        "reasons": dict(sorted(reasons.items())),
        **facts,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "summary": summary,
        "series": [asdict(record) for record in sorted(records, key=lambda one: one.series)],
        "files": sorted((dict(file) for file in files), key=lambda one: one["path"]),
    }


def write_report(output_dir: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.csv`` (one line per series), each whole or not at all."""
    table = io.StringIO()
    names = list(SeriesRecord.__dataclass_fields__)
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    for record in report["series"]:
        writer.writerow({name: _cell(record[name]) for name in names})
    write_text(output_dir / "report.csv", table.getvalue())
    write_json(output_dir / "report.json", report, indent=2)


def _cell(value: object) -> object:
    text = json.dumps(value) if isinstance(value, (dict, list)) else value
    # a spreadsheet must not take a folder's name for a formula
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text
