# SPDX-License-Identifier: Apache-2.0
"""The one-file export: what it holds, what it must not hold, how large it is."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import make_affine, smooth_volume
from tests.viewer.conftest import view, write_pair
from thinslice.screen import CommandError
from thinslice.viewer.cases import ViewerError, cases_in_output
from thinslice.viewer.export import export_case

PATIENT = "DOE^JANE"


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    thin = smooth_volume((61, 70, 40)) + rng.integers(0, 60, (61, 70, 40))
    write_pair(tmp_path / PATIENT, PATIENT, thin, make_affine([0.9, 0.8, 1.1], rotate=(3, 2, 1)))
    for file in (tmp_path / PATIENT).glob("*.nii.gz"):
        image = nib.load(file)
        image.header["descrip"] = image.header["db_name"] = image.header["aux_file"] = PATIENT.encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT.encode()))
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), file)
    (case,) = cases_in_output(tmp_path / PATIENT)
    return case


def exported(case, limit_mb):
    file = io.BytesIO()
    words = export_case(case, file, limit_mb)
    page = file.getvalue().decode()
    volumes = {}
    for role, text in re.findall(r'<script type="text/plain" id="volume-(\w+)">([^<]*)</script>', page):
        volumes[role] = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
    description = json.loads(re.search(r'id="case">(.*?)</script>', page)[1])
    return page, volumes, description, words


def test_with_room_the_voxels_are_exact(case):
    page, volumes, description, words = exported(case, 25)
    for role, path in (("acquired", case.acquired), ("result", case.result)):
        original = nib.load(path)
        assert (np.asarray(volumes[role].dataobj) == np.asarray(original.dataobj)).all()
        assert volumes[role].affine == pytest.approx(original.affine, abs=1e-4)
    top = np.asarray(nib.load(case.map).dataobj).max()
    assert np.abs(volumes["map"].get_fdata() - nib.load(case.map).get_fdata()).max() <= top / 255
    assert description["name"] == "case"
    assert description["reduced"] == words == [f"The map is rounded to steps of {top / 255:.3g}."]
    assert len(page) < 25e6


def test_nothing_of_the_patient_and_no_address(case):
    page, volumes, _, _ = exported(case, 25)
    packed = re.findall(r'id="volume-\w+">([^<]*)<', page)
    for text in (page, *(gzip.decompress(base64.b64decode(one)).decode("latin-1") for one in packed)):
        assert PATIENT not in text
        assert str(case.result.parent.parent) not in text
    addresses = re.findall(r"<(?:script|link|img|a)[^>]*(?:src|href)=\"([^\"]*)", page)
    assert set(addresses) == {"data:,", "report.html"}  # an empty icon, and a link that an export never shows
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert all(volume.header["descrip"].tobytes().strip(b"\0") == b"" for volume in volumes.values())


def test_a_tight_limit_is_kept_and_what_is_lost_is_said(case):
    whole = exported(case, 25)[0]
    data = sum(map(len, re.findall(r'id="volume-\w+">([^<]*)<', whole)))
    limit = len(whole.encode()) - 0.5 * data
    page, volumes, description, words = exported(case, limit / 1e6)
    assert len(page.encode()) <= limit
    step = volumes["result"].dataobj.slope
    assert f"256 steps of {step:.3g}" in words[0]
    original = nib.load(case.result).get_fdata()
    low, high = np.percentile(original, (0.2, 99.8))
    inside = (original > low) & (original < high)
    if volumes["result"].shape == original.shape:
        assert np.abs(volumes["result"].get_fdata() - original)[inside].max() <= 0.51 * step
    assert description["reduced"] == words


def test_averaged_pixels_stay_where_they_are(case):
    from thinslice.viewer.export import _read, _shrink

    volume = _read(case.result)
    small = _shrink(volume, [0, 1], 2)
    assert small.array.shape == (31, 35, 40)
    assert small.array[3, 4, 5] == pytest.approx(volume.array[6:8, 8:10, 5].astype(float).mean())
    # the centre of the averaged square, by hand
    assert small.affine @ [3, 4, 5, 1] == pytest.approx(volume.affine @ [6.5, 8.5, 5, 1])


def test_what_does_not_fit_is_refused(case):
    with pytest.raises(ViewerError, match="raise the limit"):
        exported(case, 2.0)


def test_the_command_writes_the_file_or_says_why(case, tmp_path):
    folder = case.result.parent
    done = view(folder, "--export", tmp_path / "a.html")
    assert done.exit_code == 0
    assert "a.html (" in done.stdout
    assert (tmp_path / "a.html").stat().st_size < 25e6
    for arguments, words in (
        ((folder, "--export", tmp_path / "b.html", "--limit", 1), "raise the limit"),
        ((folder, "--series", "none", "--export", tmp_path / "b.html"), "--series must be"),
        ((tmp_path / "missing",), "must exist"),
        ((folder, "--no-browser", "--port", 99999), "--port must be"),
    ):
        failed = view(*arguments)
        assert isinstance(failed.exception, CommandError)
        assert words in str(failed.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PATIENT, "a.html"]
