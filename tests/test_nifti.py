# SPDX-License-Identifier: Apache-2.0
import gzip

import nibabel as nib
import numpy as np
import pytest
from scripts.nifti import read_nifti
from scripts.reasons import CaseError, Reason

from tests.conftest import make_affine, save_nifti

AFFINE = make_affine([0.9, 1.1, 4.0], rotate=(10, 4, -7))


def volume(dtype=np.int16, shape=(8, 9, 6)):
    return (np.arange(np.prod(shape)).reshape(shape) % 200).astype(dtype)


def refusal(path):
    with pytest.raises(CaseError) as caught:
        read_nifti(path)
    assert path.name in caught.value.message
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_plain_file_is_read_as_it_is(tmp_path, dtype):
    found = read_nifti(save_nifti(tmp_path / "scan.nii.gz", volume(dtype), AFFINE))
    np.testing.assert_array_equal(found.array, volume(dtype))
    np.testing.assert_allclose(found.affine_ras, AFFINE, atol=1e-5)
    assert found.stored_dtype == np.dtype(dtype)
    assert found.slice_thickness_mm is None


def test_scaled_and_big_endian_values_are_exact(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(volume(">i2"), AFFINE, header), tmp_path / "scan.nii")
    data = bytearray((tmp_path / "scan.nii").read_bytes())
    data[112:120] = np.array([0.25, -3], dtype=">f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "scan.nii").write_bytes(data)
    found = read_nifti(tmp_path / "scan.nii")
    np.testing.assert_array_equal(found.array, volume(np.float32) * 0.25 - 3)
    assert found.stored_dtype == np.float32


def test_trailing_singleton_axes_are_no_fourth_dimension(tmp_path):
    found = read_nifti(save_nifti(tmp_path / "scan.nii", volume()[..., None], AFFINE))
    assert found.array.shape == (8, 9, 6)


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 6, 3), (8, 9, 1, 3)])
def test_other_dimensions_are_refused(tmp_path, shape):
    assert refusal(save_nifti(tmp_path / "scan.nii.gz", np.ones(shape, np.int16), AFFINE)) == Reason.NOT_3D


def test_rgb_is_refused(tmp_path):
    rgb = np.zeros((8, 9, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert refusal(save_nifti(tmp_path / "scan.nii", rgb, AFFINE)) == Reason.NOT_3D


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_is_refused(tmp_path, value):
    array = volume(np.float32)
    array[3, 4, 5] = value
    assert refusal(save_nifti(tmp_path / "scan.nii", array, AFFINE)) == Reason.NONFINITE


def test_truncated_corrupt_and_foreign_files_are_refused(tmp_path):
    good = save_nifti(
        tmp_path / "good.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 9)).astype(np.int16), AFFINE
    )
    data = good.read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.nii.gz").write_bytes(data[:600] + bytes(50) + data[650:])
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"this is no image" * 50))
    (tmp_path / "text.nii").write_text("this is no image")
    (tmp_path / "empty.nii").write_bytes(b"")
    for name in ("short.nii.gz", "flipped.nii.gz", "text.nii.gz", "text.nii", "empty.nii"):
        assert refusal(tmp_path / name) == Reason.UNREADABLE, name


@pytest.mark.parametrize("spacing", [0.0, -4.0, np.nan])
def test_impossible_spacing_is_refused(tmp_path, spacing):
    path = save_nifti(tmp_path / "scan.nii", volume(), AFFINE)
    data = bytearray(path.read_bytes())
    data[80 + 8 : 80 + 12] = np.float32(spacing).tobytes()  # pixdim[3]; pixdim starts at byte 76
    path.write_bytes(data)
    assert refusal(path) == Reason.NO_GEOMETRY


def test_sform_and_qform_with_different_spacing_are_refused(tmp_path):
    image = nib.Nifti1Image(volume(), AFFINE)
    image.set_qform(AFFINE @ np.diag([1, 1, 1.25, 1]), code=1)
    image.set_sform(AFFINE, code=1)
    nib.save(image, tmp_path / "scan.nii")
    assert refusal(tmp_path / "scan.nii") == Reason.NO_GEOMETRY


def test_sform_counts_where_both_are_set(tmp_path):
    image = nib.Nifti1Image(volume(), AFFINE)
    moved = AFFINE.copy()
    moved[:3, 3] += 50
    image.set_qform(moved, code=1)
    image.set_sform(AFFINE, code=2)
    nib.save(image, tmp_path / "scan.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "scan.nii").affine_ras, AFFINE, atol=1e-4)


def test_shear_and_wrong_units_are_refused(tmp_path):
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.3 * AFFINE[:3, 0]
    image = nib.Nifti1Image(volume(), sheared)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "sheared.nii")
    assert refusal(tmp_path / "sheared.nii") == Reason.SHEARED
    image = nib.Nifti1Image(volume(), AFFINE)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "metres.nii")
    assert refusal(tmp_path / "metres.nii") == Reason.NO_GEOMETRY


def test_a_file_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path):
    path = save_nifti(tmp_path / "scan.nii", volume(), AFFINE)
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([32767, 32767, 32767], dtype="<i2").tobytes()
    path.write_bytes(data)
    assert refusal(path) == Reason.TOO_LARGE
