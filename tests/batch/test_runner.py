# SPDX-License-Identifier: Apache-2.0
"""The batch as a user starts it: what comes out, what is refused, what a second run does."""

from __future__ import annotations

import csv
import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from scripts.dicom.checking import check_series
from scripts.geometry import SliceGrid

from tests.batch.conftest import read_report, thick_series
from tests.conftest import BUNDLE
from tests.dicom.synthetic import drop
from tests.dicom.test_error_map import voxels_of


@pytest.mark.slow
def test_good_series_beside_bad_ones(tmp_path, batch):
    array, affine = thick_series(tmp_path / "in" / "a", seed="one")
    thick_series(tmp_path / "in" / "b" / "c", seed="two")
    thick_series(tmp_path / "in" / "gap", seed="three", edit=drop(4))
    (tmp_path / "in" / "notes.txt").write_text("hello")
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    result = batch()
    assert result.returncode == 3, result.stderr
    report = read_report(tmp_path / "out")
    by_source = {record["source"]: record for record in report["series"]}
    assert {source: record["status"] for source, record in by_source.items()} == {
        "a": "ok",
        "b/c": "ok",
        "gap": "refused",
    }
    assert by_source["gap"]["reason"] == "GAP"
    assert [file["path"] for file in report["files"]] == ["notes.txt"]
    one = by_source["a"]
    image = nib.load(tmp_path / "out" / one["nifti"])
    assert (one["n_files"], one["n_slices_in"], one["n_slices_out"]) == (9, 9, 45)
    assert image.shape == (24, 20, 45)
    np.testing.assert_allclose(image.affine, SliceGrid.over_slab(9, 5).thin_affine(affine, 2), atol=1e-4)
    assert {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in before} == before
    np.testing.assert_allclose(one["geometry_before"]["affine_ras"], affine, atol=1e-4)
    assert one["geometry_before"]["shape"] == [24, 20, 9]
    assert one["geometry_before"]["slice_thickness_mm"] == pytest.approx(25 / 6)
    acquired = nib.load(tmp_path / "out" / one["acquired"])
    assert (np.asarray(acquired.dataobj) == array).all()
    np.testing.assert_allclose(acquired.affine, affine, atol=1e-4)
    np.testing.assert_allclose(one["geometry_after"]["affine_ras"], image.affine, atol=1e-4)
    derived = sorted((tmp_path / "out" / one["dicom_dir"]).iterdir())
    assert len(derived) == 45
    voxels = np.asarray(image.dataobj)
    assert check_series(derived, sorted((tmp_path / "in" / "a").iterdir()), image.affine, voxels) == []
    error_map = nib.load(tmp_path / "out" / one["error_map"])
    in_dicom = voxels_of(tmp_path / "out" / one["error_map_dicom"], image.affine)
    np.testing.assert_array_equal(in_dicom, np.asarray(error_map.dataobj))
    assert in_dicom.max() > 0
    for name, digest in one["outputs"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert report["summary"]["files"] == len(before)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    good = [record["series"] for record in report["series"] if record["status"] == "ok"]
    assert left == sorted(
        [".index.sqlite", ".jobs", ".lock", "files.csv", "report.csv", "report.html", "report.json", *good]
    )


def test_what_lies_outside_the_envelope_is_a_warning_of_its_series(tmp_path, batch_here):
    thick_series(tmp_path / "in")
    limits = json.loads((BUNDLE / "configs" / "inference.json").read_text())["envelope"]
    wide = {f"inference::envelope::{name}": [-1e9, 1e9] for name in limits}
    wide["inference::self_check"] = False  # it has warnings of its own
    assert batch_here(**wide) == 0
    assert read_report(tmp_path / "out")["series"][0]["warnings"] == []
    assert batch_here(**{**wide, "inference::envelope::slice_spacing_mm": [1, 2]}) == 0  # another config: done again
    (record,) = read_report(tmp_path / "out")["series"]
    assert record["status"] == "ok"
    assert record["warnings"] == ["slice_spacing_mm must lie in 1 to 2, got 5"]
    settings = {**wide, "inference::envelope::slice_spacing_mm": [1, 2], "inference::envelope_policy": "refuse"}
    assert batch_here(output_dir=tmp_path / "strict", **settings) == 3
    assert read_report(tmp_path / "strict")["series"][0]["reason"] == "OUTSIDE_ENVELOPE"


def test_report_csv_has_the_fields_of_report_json(tmp_path, batch_here):
    thick_series(tmp_path / "in" / "=1+1", seed="one")
    thick_series(tmp_path / "in" / "gap", seed="three", edit=drop(4))
    assert batch_here(pictures=0) == 3
    report = read_report(tmp_path / "out")
    assert list(report) == ["schema_version", "summary", "series", "files"]
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    fields = [[name for name in record if name != "outputs"] for record in report["series"]]
    assert [list(row) for row in rows] == fields
    assert {row["source"] for row in rows} == {"'=1+1", "gap"}
    documented = (BUNDLE.parent / "docs" / "batch.md").read_text()
    for name in [*report["series"][0], *report["summary"]]:
        assert f"`{name}`" in documented, name


def test_ids_reach_discovery(tmp_path, batch_here):
    thick_series(tmp_path / "in" / "nine", seed="nine")
    thick_series(tmp_path / "in" / "end", seed="end", edit=drop(8), ImagesInAcquisition=9)

    def reasons(**ids):
        batch_here(output_dir=tmp_path / "-".join(ids or ["plain"]), **ids)
        found = read_report(tmp_path / "-".join(ids or ["plain"]))["series"]
        return {record["source"]: record["reason"] for record in found}

    assert reasons() == {"nine": None, "end": None}
    assert reasons(strict=True) == {"nine": None, "end": "COUNT_MISMATCH"}
    assert reasons(min_slices=9) == {"nine": None, "end": "TOO_SMALL"}
    assert reasons(max_voxels=24 * 20 * 8) == {"nine": "TOO_LARGE", "end": None}
