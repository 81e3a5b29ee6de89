# SPDX-License-Identifier: Apache-2.0
import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.nifti import read_nifti
from scripts.reasons import CaseError, Reason
from scripts.transforms.load import as_meta_tensor
from scripts.transforms.save import AtomicNibabelWriter

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


def test_a_sform_that_contradicts_the_pixel_dimensions_is_named(tmp_path):
    """Unit steps in the sform, the true voxel size in the pixel dimensions: one of both lies."""
    image = nib.Nifti1Image(volume(), None)
    image.header["pixdim"][1:4] = 1.3, 1.3, 10
    image.header["sform_code"] = 1
    for k, row in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[row] = np.eye(4)[k]
    nib.save(image, tmp_path / "scan.nii")
    assert refusal(tmp_path / "scan.nii") == Reason.NO_GEOMETRY


@pytest.mark.parametrize(
    ("intent", "reason"),
    [
        ("label", Reason.LABEL_MAP),
        ("neuroname", Reason.LABEL_MAP),
        ("z score", Reason.QUANTITATIVE),
        ("t test", Reason.QUANTITATIVE),
        ("estimate", Reason.QUANTITATIVE),
    ],
)
def test_what_is_no_image_by_its_intent_is_refused(tmp_path, intent, reason):
    image = nib.Nifti1Image(volume(), AFFINE)
    image.header.set_intent(intent, (3,) if intent == "t test" else ())
    nib.save(image, tmp_path / "scan.nii")
    assert refusal(tmp_path / "scan.nii") == reason


def write_result(tmp_path, source, step):
    """What the bundle writes for a grid that lies by ``step`` (in voxels) from the source's."""
    found = read_nifti(source)
    image = as_meta_tensor(found, "scan")
    image.meta["affine"] = torch.from_numpy(found.affine_ras @ step)
    writer = AtomicNibabelWriter(output_dtype=None)
    writer.set_data_array(np.repeat(found.array, 4, axis=2)[None], channel_dim=0)
    writer.set_metadata(image.meta, resample=False)
    writer.write(tmp_path / "result.nii.gz")
    return nib.load(tmp_path / "result.nii.gz")


QUARTERS = np.diag([1, 1, 0.25, 1.0])  # four slices for each, over the same slab
QUARTERS[2, 3] = -0.375


def test_a_result_keeps_both_forms_codes_and_units(tmp_path):
    """Each form moved by the same step in voxels: both put the result where they put the source."""
    image = nib.Nifti1Image(volume(), AFFINE)
    qform = make_affine([0.9, 1.1, 4.0], rotate=(-20, 8, 3), origin=(5, 7, 9))
    image.set_qform(qform, code=1)
    image.set_sform(AFFINE, code=4)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    result = write_result(tmp_path, tmp_path / "scan.nii.gz", QUARTERS)
    np.testing.assert_allclose(result.get_qform(), qform @ QUARTERS, atol=1e-4)
    np.testing.assert_allclose(result.get_sform(), AFFINE @ QUARTERS, atol=1e-4)
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == (1, 4)
    assert result.header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 0), (0, 2), (1, 1)])
def test_a_result_keeps_the_codes_of_its_source(tmp_path, qform_code, sform_code):
    image = nib.Nifti1Image(volume(), AFFINE)
    image.set_qform(AFFINE, code=qform_code)
    image.set_sform(AFFINE, code=sform_code)
    nib.save(image, tmp_path / "scan.nii.gz")
    result = write_result(tmp_path, tmp_path / "scan.nii.gz", QUARTERS)
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == (qform_code, sform_code)
    np.testing.assert_allclose(result.affine, AFFINE @ QUARTERS, atol=1e-4)
    np.testing.assert_allclose(result.get_qform(), result.get_sform(), atol=1e-4)


def test_a_result_of_a_file_without_forms_lies_where_its_pixel_dimensions_put_it(tmp_path):
    image = nib.Nifti1Image(volume(), None)
    image.header["pixdim"][1:4] = 0.9, 1.1, 4
    nib.save(image, tmp_path / "scan.nii.gz")
    source = nib.load(tmp_path / "scan.nii.gz")
    result = write_result(tmp_path, tmp_path / "scan.nii.gz", QUARTERS)
    np.testing.assert_allclose(result.affine, source.affine @ QUARTERS, atol=1e-4)
    assert (int(result.header["qform_code"]), int(result.header["sform_code"])) == (0, 0)
    moved = QUARTERS.copy()
    moved[2, 3] = 0
    result = write_result(tmp_path, tmp_path / "scan.nii.gz", moved)
    np.testing.assert_allclose(result.affine, source.affine @ moved, atol=1e-4)


def test_both_forms_of_a_result_of_a_slightly_sheared_file_are_equal(tmp_path, caplog):
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.005 * 4 / 0.9 * AFFINE[:3, 0]  # a cosine of 0.005
    save_nifti(tmp_path / "scan.nii.gz", volume(), sheared)
    result = write_result(tmp_path, tmp_path / "scan.nii.gz", QUARTERS)
    np.testing.assert_allclose(result.get_qform(), result.get_sform(), atol=1e-4)
    np.testing.assert_allclose(result.affine, sheared @ QUARTERS, atol=0.06)
    assert "slightly sheared" in caplog.text


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
