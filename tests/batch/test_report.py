# SPDX-License-Identifier: Apache-2.0
"""Reports of many series: tables hold all of them, pages share them out, report.json says where they are."""

from __future__ import annotations

import csv
import itertools
import json
import re

import pytest
from scripts.batch.html import write_html
from scripts.batch.report import Records, SeriesRecord, Status, exit_code, summary_of, write_report

GRID = {"shape": [4, 4, 4], "spacing_mm": [1.0, 1.0, 4.0], "thick_axis": 2, "affine_ras": []}
RESULT = {
    "geometry_before": GRID, "geometry_after": GRID, "seconds": 1.0, "peak_memory_bytes": 2**30, "clipped_voxels": 0,
    "data_consistency_residual": 0.0, "acquired": "a_acquired.nii.gz",
}  # fmt: skip
FACTS = {"started_at": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "executor": "local"}


@pytest.fixture
def records():
    records = Records()
    for i in range(53):
        status = Status.SKIPPED if i % 2 else Status.OK
        records.add(SeriesRecord(f"{i:016x}", source="a", status=status, n_files=10, **RESULT))
    for i in range(100, 105):
        records.add(
            SeriesRecord(f"{i:016x}", source="=1+1", status=Status.REFUSED, reason="GAP", message="m", n_files=1)
        )
    return records


def left_out():
    for i in range(3):
        yield {"path": f"-{i}", "reason": "NOT_MR", "message": "n"}


def test_summary_and_exit_code(records):
    summary = summary_of(records, {"NOT_MR": 3}, FACTS, exit_code(records))
    assert (summary["exit_code"], summary["series"], summary["files"]) == (3, 58, 53 * 10 + 5 + 3)
    assert (summary["ok"], summary["skipped"], summary["refused"], summary["failed"]) == (27, 26, 5, 0)
    assert summary["reasons"] == {"GAP": 5}
    assert exit_code(records, 15) == 143
    assert exit_code(Records()) == 4


@pytest.mark.parametrize("most", [57, 58])
def test_tables_hold_what_report_json_leaves_out(tmp_path, records, most):
    summary = summary_of(records, {"NOT_MR": 3}, FACTS, 3)
    write_report(tmp_path, summary, records, left_out, most)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["summary"] == summary
    assert len(report["files"]) == 3
    if most < 58:
        assert report["series"] is None
    else:
        assert [one["series"] for one in report["series"]] == sorted(one["series"] for one in records.of(True, False))
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["series"] for row in rows] == [one["series"] for one in records.of(True, False)]
    assert {row["source"] for row in rows} == {"a", "'=1+1"}
    with (tmp_path / "files.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["'-0", "'-1", "'-2"]


def test_pages_hold_every_series_once_and_lead_to_each_other(tmp_path, records):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "00009.html").write_text("of an earlier, larger run")
    write_html(
        tmp_path, summary_of(records, {}, FACTS, 3), records, {"NOT_MR": 3}, results_per_page=25, lines_per_page=2
    )
    pages = [tmp_path / "report.html", *sorted((tmp_path / "report").iterdir())]
    assert [page.name for page in pages] == ["report.html", "00002.html", "00003.html"]
    found = [name for page in pages for name in re.findall(r'id="s([0-9a-f]{16})"', page.read_text())]
    assert found == [one["series"] for one in records.of(True)]
    lines = [name for page in pages for name in re.findall(r"<tr><td><code>([0-9a-f]{16})", page.read_text())]
    assert lines == [one["series"] for one in records.of(False)]
    links = {page: re.findall(r'<a[^>]* href="([^"]*)"', page.read_text()) for page in pages}
    # the viewer is served beside report.html
    shown = [(page, link) for page, targets in links.items() for link in targets if "?series=" in link]
    assert {(page.parent / link.partition("?")[0]).resolve() for page, link in shown} == {tmp_path.resolve()}
    assert [link.partition("?series=")[2] for _, link in shown] == found
    links = {page: [link for link in targets if "?" not in link] for page, targets in links.items()}
    for page, targets in links.items():
        assert targets
        assert {(page.parent / target).resolve() for target in targets} <= {one.resolve() for one in pages}
    for before, after in itertools.pairwise(pages):  # forth and back
        assert after.resolve() in {(before.parent / target).resolve() for target in links[before]}
        assert before.resolve() in {(after.parent / target).resolve() for target in links[after]}
    assert ["A slice is missing." in page.read_text() for page in pages] == [True, True, True]
    assert ["Files of no series" in page.read_text() for page in pages] == [True, False, False]
