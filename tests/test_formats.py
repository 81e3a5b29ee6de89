# SPDX-License-Identifier: Apache-2.0
"""Volumes that are neither DICOM nor NIfTI, beside ITK's readers; what is uncertain is refused."""

from __future__ import annotations

import gzip
import shutil

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK
from scripts.data.cases import find_cases, read_case
from scripts.formats import is_volume_file, read_volume_file, volume_stem
from scripts.geometry import swap_lps_ras
from scripts.reasons import CaseError, Reason

from tests.conftest import make_affine, save_nifti

AFFINE = make_affine([0.9, 1.1, 4.0], rotate=(10, 4, -7))
ARRAY = (np.arange(8 * 9 * 6).reshape(8, 9, 6) % 200).astype(np.int16)


def refusal(path) -> Reason:
    with pytest.raises(CaseError) as caught:
        read_volume_file(path)
    assert path.name in caught.value.message
    return caught.value.reason


def write_with_itk(path, array=ARRAY, affine=AFFINE, compress=False):
    lps = swap_lps_ras(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    SimpleITK.WriteImage(image, str(path), compress)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".MHA"])
def test_what_itk_writes_is_read_at_its_place(tmp_path, suffix, compress, dtype):
    path = write_with_itk(tmp_path / f"scan{suffix.lower()}", ARRAY.astype(dtype), compress=compress)
    path = path.rename(path.with_suffix(suffix))
    volume = read_volume_file(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine_ras, AFFINE, atol=1e-6)
    assert volume.stored_dtype == (np.float32 if dtype is np.float64 else dtype)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_freesurfer_volumes_are_read_as_nibabel_wrote_them(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    nib.save(nib.MGHImage(ARRAY, AFFINE), path)
    volume = read_volume_file(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine_ras, AFFINE, atol=1e-4)
    assert volume.stored_dtype == np.int16
    data = bytearray(path.read_bytes() if suffix == ".mgh" else gzip.decompress(path.read_bytes()))
    data[28:30] = b"\0\0"  # goodRASFlag
    path.write_bytes(data if suffix == ".mgh" else gzip.compress(data))
    assert refusal(path) is Reason.NO_GEOMETRY


@pytest.mark.parametrize("name", ["scan.NII", "scan.NII.GZ", "scan.hdr"])
def test_nifti_under_other_names(tmp_path, name):
    path = tmp_path / name
    if name.endswith("hdr"):
        nib.save(nib.Nifti1Pair(ARRAY, AFFINE), path)
    else:
        shutil.move(save_nifti(tmp_path / name.lower(), ARRAY, AFFINE), path)
    volume = read_volume_file(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine_ras, AFFINE, atol=1e-4)


def test_a_pair_without_orientation_is_refused(tmp_path):
    """Analyze 7.5 does not say which way up its voxels lie."""
    nib.save(nib.analyze.AnalyzeImage(ARRAY, None), tmp_path / "scan.hdr")
    assert refusal(tmp_path / "scan.hdr") is Reason.NO_GEOMETRY


def test_a_nrrd_file_without_space_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "scan.nrrd"), ARRAY, {"space directions": AFFINE[:3, :3].T.tolist()})
    assert refusal(tmp_path / "scan.nrrd") is Reason.NO_GEOMETRY


def test_files_that_name_other_files_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(ARRAY.tobytes())
    write_with_itk(tmp_path / "scan.mha")
    data = (tmp_path / "scan.mha").read_bytes()
    (tmp_path / "scan.mha").write_bytes(data.replace(b"= LOCAL", b"= secret"))
    write_with_itk(tmp_path / "scan.nrrd")
    data = (tmp_path / "scan.nrrd").read_bytes()
    (tmp_path / "scan.nrrd").write_bytes(data.replace(b"encoding: raw\n", b"encoding: raw\ndata file: secret\n"))
    assert refusal(tmp_path / "scan.mha") is Reason.UNREADABLE
    assert refusal(tmp_path / "scan.nrrd") is Reason.UNREADABLE


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True])
def test_cut_and_swollen_files_are_refused(tmp_path, suffix, compress):
    array = np.random.default_rng(0).integers(0, 999, (20, 20, 9)).astype(np.int16)
    path = write_with_itk(tmp_path / f"scan{suffix}", array, compress=compress)
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    assert refusal(path) is Reason.TRUNCATED
    if not compress:
        path.write_bytes(good + b"\0" * 100)
        assert refusal(path) is Reason.TRUNCATED
    path.write_bytes(b"text")
    assert refusal(path) is Reason.UNREADABLE


def test_a_bomb_never_inflates(tmp_path):
    """A megabyte that would become a gigabyte, behind a header of a few voxels."""
    path = write_with_itk(tmp_path / "scan.nrrd", compress=True)
    head = path.read_bytes().partition(b"\n\n")[0]
    path.write_bytes(head + b"\n\n" + gzip.compress(bytes(2**28), compresslevel=1))
    assert refusal(path) is Reason.TRUNCATED


def test_a_damaged_file_is_never_worse_than_refused(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in (".nrrd", ".mha", ".mgh"):
        path = tmp_path / f"scan{suffix}"
        if suffix == ".mgh":
            nib.save(nib.MGHImage(ARRAY, AFFINE), path)
        else:
            write_with_itk(path)
        good = path.read_bytes()
        for _ in range(200):
            damaged = bytearray(good)
            for at in rng.integers(0, 400, 4):
                damaged[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            try:
                volume = read_volume_file(path, max_voxels=10**6)
            except CaseError:
                continue
            assert np.isfinite(volume.array).all()
            assert np.isfinite(volume.affine_ras).all()


def test_a_folder_of_everything(tmp_path):
    """Results mirror the folders; what is kept beside a file by macOS is no scan; archives are named."""
    for patient in ("patient01", "patient02"):
        save_nifti(tmp_path / patient / "FLAIR.nii.gz", ARRAY, AFFINE)
    (tmp_path / "patient01" / "._FLAIR.nii.gz").write_bytes(b"Mac OS X")
    write_with_itk(tmp_path / "patient01" / "T1.nrrd")
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "patient02" / "T2.hdr")
    (tmp_path / "all.zip").write_bytes(b"PK\3\4")
    (tmp_path / "IM1.dcm.gz").write_bytes(gzip.compress(b"x"))
    save_nifti(tmp_path / "twice.nii.gz", ARRAY, AFFINE)
    save_nifti(tmp_path / "twice.nii", ARRAY, AFFINE)
    cases = find_cases(tmp_path)
    assert [item["case"] for item in cases.items] == [
        "patient01/FLAIR", "patient01/T1", "patient02/FLAIR", "patient02/T2",
    ]  # fmt: skip
    for item in cases.items:
        np.testing.assert_array_equal(read_case(item["image"])[1].array, ARRAY)
    assert {name: error.reason for name, error in cases.refused} == {
        "twice": Reason.DUPLICATE_NAME,
        "all.zip": Reason.TRUNCATED,
    }
    assert {name: error.reason for name, error in cases.skipped} == {
        "IM1.dcm.gz": Reason.ARCHIVE,
        "._FLAIR.nii.gz": Reason.NOT_AN_IMAGE,
        "T2.img": Reason.NOT_AN_IMAGE,
    }


def test_names_of_formats(tmp_path):
    for name in ("a.b.nii.gz", "a.b.NII", "a.b.mgz", "a.b.MHA", "a.b.nrrd"):
        assert is_volume_file(tmp_path / name)
        assert volume_stem(tmp_path / name) == "a.b"
    for name in ("a.dcm", "a.hdr", "a.img", "._a.nii", "a.mhd", "a.gz"):
        assert not is_volume_file(tmp_path / name)
