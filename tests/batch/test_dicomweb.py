# SPDX-License-Identifier: Apache-2.0
"""A batch from a real Orthanc over DICOMweb gives what a batch of the same files gives."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from tests.batch.conftest import read_report, thick_series
from tests.batch.test_orthanc import orthanc, send, wait_until_stable  # noqa: F401
from tests.dicom.synthetic import drop

pytestmark = [pytest.mark.system, pytest.mark.slow]
pytest.importorskip("dicomweb_client", reason="the extra for clusters is not installed")


def results(output_dir):
    """Of each series by its hashed UID: what became of it, and the voxels of its result."""
    found = {}
    for record in read_report(output_dir)["series"]:
        image = nib.load(output_dir / record["nifti"]) if record["nifti"] else None
        found[record["series"]] = (record["status"], record["reason"], record["n_files"], image)
    return found


def test_a_server_is_as_good_as_a_folder(tmp_path, orthanc, batch_here, monkeypatch):  # noqa: F811
    scans = tmp_path / "scans"
    thick_series(scans / "plain", seed="plain")
    thick_series(scans / "rle", seed="rle", transfer_syntax="1.2.840.10008.1.2.5")
    thick_series(scans / "gap", seed="gap", edit=drop(4))
    thick_series(scans / "ct", seed="ct", Modality="CT")
    send(orthanc, *(scans / name for name in ("plain", "gap", "ct")))
    send(orthanc, "--propose-rle", scans / "rle")
    wait_until_stable(orthanc, 4)
    monkeypatch.setattr("scripts.dicom.web.PAGE", 2)  # so that three series are two pages
    ids = {"dataset_dir": tmp_path / "in", "dicomweb_url": f"{orthanc.url}/dicom-web"}
    assert batch_here(**ids) == 3
    assert batch_here(dataset_dir=scans, output_dir=tmp_path / "expected") == 3
    expected, found = results(tmp_path / "expected"), results(tmp_path / "out")
    assert len(found) == 3  # the CT scan stays where it is
    for name, (status, reason, files, image) in found.items():
        assert (status, reason, files) == expected[name][:3]
        if image is not None:
            np.testing.assert_array_equal(image.affine, expected[name][3].affine)
            np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected[name][3].dataobj))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*.dcm")}
    assert len(stamps) == 9 + 9 + 8
    assert batch_here(**ids) == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*.dcm")} == stamps
    assert sorted(found[0] for found in results(tmp_path / "out").values()) == ["refused", "skipped", "skipped"]


def test_a_server_that_does_not_answer_is_said_in_words(tmp_path, batch_here, capsys, monkeypatch):
    monkeypatch.setattr("retrying.time.sleep", lambda seconds: None)  # the client tries five times, in half a minute
    assert batch_here(dataset_dir=tmp_path / "in", dicomweb_url="http://127.0.0.1:9/dicom-web") == 2
    assert "dicomweb_url must be a server that answers" in capsys.readouterr().err
