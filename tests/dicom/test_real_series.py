# SPDX-License-Identifier: Apache-2.0
"""Real files of many vendors, as one tree and beside ITK and dcm2niix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.dicom.discovery import discover
from scripts.dicom.headers import read_headers
from scripts.dicom.parsing import open_dicom
from scripts.dicom.pixels import decode_pixels
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError, Reason

from tests.conftest import SHARED
from tests.dicom.test_reading import read_with_itk

pytestmark = pytest.mark.shared

# number of files, and what becomes of them, by folder (as far down as the answer differs)
REFUSED = {
    "mr_multiecho_philips": (60, Reason.QUANTITATIVE),  # the phase half
    "mr_localizer_ge3plane": (21, Reason.MIXED_ORIENTATION),
    "pydicom_mr_small": (9, Reason.UID_CONFLICT),  # one image in nine encodings
    "dcm2nifti_compressed/tests/data/generic/compressed": (20, Reason.UID_CONFLICT),  # one series in five encodings
    "dcm2nifti_failing/tests/data/failing/sliceorientation": (4, Reason.MIXED_ORIENTATION),
}
ACCEPTED = {  # slices of each volume
    "mr_decub_HFDL": [35],
    "mr_decub_HFS": [35],
    "mr_enhanced_philips": [8],
    "mr_enhanced_siemens_mf": [8],
    "mr_mosaic_bold": [36] * 6,
    "mr_j2k_fragmented": [96],
    "mr_multiecho_philips": [30, 30],
    "dcm2nifti_compressed": [4, 4, 4],
    "dcm2nifti_ge": [4] * 14,  # two anatomical; diffusion by weighting, time points by the numbers of their images
    "dcm2nifti_hitachi": [4, 4],
}


@pytest.fixture
def tree(shared_data) -> Path:
    return shared_data / "dicom"


def test_one_tree_every_file_accounted_for(tree):
    found = discover(tree)
    there = sorted(Path(folder) / name for folder, _, names in os.walk(tree) for name in names)
    assert found.all_paths() == there
    refused = {}
    for series in found.refused:
        folder = str(series.files[0].relative_to(tree))
        name = max((known for known in REFUSED if folder.startswith(known + "/") or folder.startswith(known)), key=len)
        refused[name] = (len(series.files), series.error.reason)
    assert refused == REFUSED
    accepted: dict[str, list[int]] = {}
    for series in found.series:
        accepted.setdefault(series.files[0].relative_to(tree).parts[0], []).append(len(series.slices))
    assert accepted == ACCEPTED
    left_out = Counter((file.path.relative_to(tree).parts[0].split("_")[0], file.error.reason) for file in found.files)
    assert left_out == {
        ("ct", Reason.NOT_MR): 28,
        ("ct", Reason.NOT_AN_IMAGE): 6,
        ("dcm2nifti", Reason.NOT_MR): 20,
        ("dcm2nifti", Reason.NOT_AN_IMAGE): 6,
    }


def test_every_accepted_series_is_read_as_itk_reads_it(tree):
    for series in discover(tree).series:
        if any(header.multi_frame for header in series.slices):
            continue  # beside dcm2niix, below
        volume = read_series(series)
        theirs, affine = read_with_itk(series.files)
        np.testing.assert_allclose(volume.array, theirs, rtol=1e-6)
        # ITK takes the spacing from the first two slices only and makes directions orthonormal
        np.testing.assert_allclose(volume.affine_ras, affine, atol=2e-3)


@pytest.mark.parametrize(
    "name",
    [
        "mr_decub_HFDL", "mr_multiecho_philips", "mr_j2k_fragmented", "dcm2nifti_hitachi", "mr_enhanced_philips",
        "mr_enhanced_siemens_mf", "mr_mosaic_bold",
    ],
)  # fmt: skip
def test_places_are_those_of_dcm2niix(tree, tmp_path, name):
    assert_as_dcm2niix(discover(tree / name).series[-1], tmp_path)


@pytest.mark.parametrize("name", ["spine_angled_8", "spine_angled_9"])
def test_five_stacks_of_a_spine_are_where_dcm2niix_puts_them(tmp_path, name):
    folder = SHARED / "body" / "dicom" / name
    if not folder.is_dir():
        pytest.skip("the shared scans of the body are not here")
    found = discover(folder)
    assert [len(series.slices) for series in found.series] == [3, 3, 3, 4, 4]
    assert len({series.derived_number for series in found.series}) == 5
    for series in found.series:
        assert_as_dcm2niix(series, tmp_path / series.key)


def assert_as_dcm2niix(series, folder) -> None:
    """The same voxels at the same places as one volume of what dcm2niix makes of the files of a series."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    for file in series.files:
        shutil.copy(file, folder / "in")
    program = Path(sys.executable).with_name("dcm2niix")
    # -p n: the standard's rescale, not Philips' private one
    command = [program, "-p", "n", "-b", "n", "-z", "n", "-f", "x", "-o", folder / "out", folder / "in"]
    subprocess.run(command, check=True, capture_output=True)
    (written,) = (folder / "out").glob("*.nii")
    theirs = nib.load(written)
    volume = read_series(series)
    ijk = np.stack([np.random.default_rng(0).integers(0, n, 500) for n in volume.array.shape])
    world = volume.affine_ras[:3, :3] @ ijk + volume.affine_ras[:3, 3:]
    inverse = np.linalg.inv(theirs.affine)
    their_ijk = inverse[:3, :3] @ world + inverse[:3, 3:]
    np.testing.assert_allclose(their_ijk, np.rint(their_ijk), atol=0.02)
    values = np.asarray(theirs.get_fdata())[tuple(np.rint(their_ijk).astype(int))]
    np.testing.assert_allclose(volume.array[tuple(ijk)], values, rtol=1e-5, atol=1e-3)


def test_one_real_series_in_four_lossless_encodings(tree):
    """RLE, JPEG 2000, JPEG-LS and JPEG lossless of the same images: equal to the last bit."""
    root = tree / "dcm2nifti_compressed" / "tests" / "data" / "generic"
    read = [
        read_series(discover(root / name).series[0])
        for name in ("compressed_rle", "compressed_j2k", "compressed_jpegls", "compressed_jpeg", "compressed")
    ]
    for other in read[1:]:
        np.testing.assert_array_equal(other.array, read[0].array)
        np.testing.assert_array_equal(other.affine_ras, read[0].affine_ras)


def decode(path: Path) -> np.ndarray:
    (header,) = read_headers(path)
    assert header.error is None
    assert header.pixels is not None
    with open_dicom(path, 2**27) as (file, _, _, _):
        file.seek(header.pixels.offset)
        return decode_pixels(header, file.read(header.pixels.length))


@pytest.mark.parametrize(
    ("syntax", "most"),
    [
        ("1.2.840.10008.1.2", 0),
        ("1.2.840.10008.1.2.1", 0),
        ("1.2.840.10008.1.2.1.99", 0),
        ("1.2.840.10008.1.2.2", 0),
        ("1.2.840.10008.1.2.4.57", 0),
        ("1.2.840.10008.1.2.4.70", 0),
        ("1.2.840.10008.1.2.4.80", 0),
        ("1.2.840.10008.1.2.4.81", 3),
        ("1.2.840.10008.1.2.4.90", 0),
        ("1.2.840.10008.1.2.4.91", 10),
        ("1.2.840.10008.1.2.5", 0),
        ("1.2.840.10008.1.2.4.51", Reason.NO_DECODER),
        ("1.2.840.10008.1.2.4.53", Reason.NO_DECODER),
        ("1.2.840.10008.1.2.4.55", Reason.NO_DECODER),
    ],
)
def test_one_real_image_in_every_transfer_syntax(tree, syntax, most):
    """Signed 16 bits; lossy ones within a few Hounsfield units, the others exact or refused by name."""
    folder = tree / "ct_all_transfer_syntaxes" / "testImages"
    (path,) = folder.glob(f"CTImage.dcm_*_{syntax}.dcm")
    if isinstance(most, Reason):
        with pytest.raises(CaseError) as caught:
            decode(path)
        assert caught.value.reason == most
    else:
        assert np.abs(decode(path) - decode(folder / "CTImage.dcm")).max() <= most


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("gantrytilting", Reason.SHEARED),
        ("sliceincrement/001", Reason.GAP),
        ("sliceincrement/002", Reason.GAP),
        ("notavolume", Reason.TOO_SMALL),  # four acquisitions of one slice
    ],
)
def test_real_computed_tomography_that_is_no_volume(tree, folder, reason):
    found = discover(tree / "dcm2nifti_failing" / "tests" / "data" / "failing" / folder, "CT")
    assert {series.error.reason for series in found.refused} == {reason}
    assert not found.series
