# SPDX-License-Identifier: Apache-2.0
"""Write ``report.json`` and the tables of a batch; ``docs/batch.md`` explains the fields."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from ..files import whole, write_json

__all__ = ["RECORD", "SCHEMA_VERSION", "Records", "SeriesRecord", "Status", "exit_code", "summary_of", "write_report"]

RECORD = "record.json"
SCHEMA_VERSION = "2.1"


class Status(StrEnum):
    """Outcome of a series."""

    OK = "ok"
    SKIPPED = "skipped"  # done by an earlier run, and unchanged since
    REFUSED = "refused"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OOM = "oom"


@dataclass
class SeriesRecord:
    """One discovered series, in plain JSON types. Only ``source``, a path of the input, may hold patient data."""

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
    error_map: str | None = None
    error_map_dicom: str | None = None
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
    raised_voxels: int | None = None
    data_consistency_residual: float | None = None
    source_facts: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


class Records:
    """The records of a run in the order of their series, on disk so that memory does not grow with their number.

    Digests of outputs are not kept here, but in the ``record.json`` of each series.
    """

    def __init__(self) -> None:
        self.db = sqlite3.connect("")  # a temporary file that ends with the process
        self.db.execute(
            "CREATE TABLE records "
            "(series TEXT PRIMARY KEY, done INT, status TEXT, reason TEXT, files INT, content TEXT)"
        )

    def add(self, record: SeriesRecord) -> None:
        """Add one record, or replace that of the same series."""
        content = msgspec.json.encode(record)
        done = record.status in (Status.OK, Status.SKIPPED)
        row = (record.series, done, str(record.status), record.reason, record.n_files, content)
        self.db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", row)

    def of(self, *done: bool) -> Iterator[dict[str, Any]]:
        """Yield records with a result (``True``), without one (``False``), or both."""
        marks = ", ".join(str(int(one)) for one in done)
        for (content,) in self.db.execute(f"SELECT content FROM records WHERE done IN ({marks}) ORDER BY series"):
            yield json.loads(content)

    def counts(self, column: str) -> dict[Any, int]:
        """Number of records by ``status``, ``reason`` or ``done``."""
        rows = self.db.execute(f"SELECT {column}, count(*) FROM records WHERE {column} NOT NULL GROUP BY {column}")
        return dict(sorted(rows))

    def files(self) -> int:
        """Number of files of all records."""
        return int(self.db.execute("SELECT coalesce(sum(files), 0) FROM records").fetchone()[0])


def exit_code(records: Records, signal_number: int | None = None) -> int:
    """Exit code: 0 all done, 3 some series without result, 4 nothing to process, 128 + signal that ended the run."""
    if signal_number is not None:
        return 128 + signal_number
    done = records.counts("done")
    return 4 if not done else 3 if 0 in done else 0


def summary_of(records: Records, left_out: Mapping[str, int], facts: Mapping[str, Any], code: int) -> dict[str, Any]:
    """Summary of a run, as ``report.json`` holds it.

    Args:
        records: one per discovered series.
        left_out: number of files that belong to no series, by reason.
        facts: further entries, about the run as a whole.
        code: exit code.
    """
    statuses = records.counts("status")
    return {
        "exit_code": code,
        "series": sum(statuses.values()),
        "files": records.files() + sum(left_out.values()),
        **{str(status): statuses.get(str(status), 0) for status in Status},
        "reasons": records.counts("reason"),
        **facts,
    }


def write_report(
    output_dir: Path,
    summary: Mapping[str, Any],
    records: Records,
    files: Callable[[], Iterable[dict[str, str]]],
    most: int,
) -> None:
    """Write ``report.json``, ``report.csv`` (one line per series) and ``files.csv`` (one per file of no series).

    Args:
        output_dir: folder; each file is written completely or not at all.
        summary: from :func:`summary_of`.
        records: one per discovered series.
        files: called for each pass; yields ``path``, ``reason`` and ``message`` of each file of no series.
        most: the most series, or files of no series, that ``report.json`` lists; if there are more, it holds null.
    """
    names = [name for name in SeriesRecord.__dataclass_fields__ if name != "outputs"]
    _write_table(output_dir / "report.csv", names, records.of(True, False))
    _write_table(output_dir / "files.csv", ["path", "reason", "message"], files())
    few = summary["series"] <= most
    few_files = summary["files"] - records.files() <= most
    report = {
        "schema_version": SCHEMA_VERSION,
        "summary": summary,
        "series": [_whole_record(output_dir, record) for record in records.of(True, False)] if few else None,
        "files": sorted(files(), key=lambda one: one["path"]) if few_files else None,
    }
    write_json(output_dir / "report.json", report, indent=2)


def _whole_record(output_dir: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record with its digests, which lie in the folder of the series."""
    if record["reason"] is None:
        with suppress(FileNotFoundError):  # the result has been removed meanwhile
            record["outputs"] = json.loads((output_dir / record["series"] / RECORD).read_text())["outputs"]
    return record


def _write_table(path: Path, names: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: _cell(row[name]) for name in names} for row in rows)


def _cell(value: object) -> object:
    text = json.dumps(value) if isinstance(value, (dict, list)) else value
    # a spreadsheet must not read the name of a folder as a formula
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text
