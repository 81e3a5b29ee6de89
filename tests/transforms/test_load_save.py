# SPDX-License-Identifier: Apache-2.0
"""Voxels into MONAI's world and out of it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.reasons import CaseError
from scripts.transforms.load import LoadImageVolumed, as_meta_tensor
from scripts.transforms.save import AtomicNibabelWriter
from scripts.volume import Volume

from tests.conftest import make_affine, save_nifti

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
AFFINE = make_affine([1, 2, 3], rotate=(5, 0, 0))


def volume(**facts):
    values = {"stored_dtype": np.dtype("int16"), "slice_thickness_mm": 2.5, **facts}
    return Volume(array=ARRAY, affine_ras=AFFINE.copy(), **values)


def test_a_volume_with_all_that_is_known_of_it():
    source = volume()
    result = as_meta_tensor(source, "case")
    assert result.shape == (1, 2, 3, 4)
    np.testing.assert_array_equal(result[0].numpy(), ARRAY)
    for key in ("affine", "original_affine"):
        np.testing.assert_array_equal(np.asarray(result.meta[key]), AFFINE)
    assert tuple(result.meta["spatial_shape"]) == (2, 3, 4)
    assert np.isnan(result.meta["original_channel_dim"])
    assert result.meta["space"] == "RAS"
    assert result.meta["filename_or_obj"] == "case.nii.gz"
    assert result.meta["stored_dtype"] == "int16"
    assert result.meta["slice_thickness_mm"] == 2.5
    result.meta["affine"][0, 0] = 99
    np.testing.assert_array_equal(source.affine_ras, AFFINE)  # a copy
    np.testing.assert_array_equal(np.asarray(result.meta["original_affine"]), AFFINE)


def test_a_thickness_that_is_not_stated_is_nan():
    assert np.isnan(as_meta_tensor(volume(slice_thickness_mm=None), "case").meta["slice_thickness_mm"])


def test_padding_goes_along_where_there_is_some():
    mask = np.zeros((2, 3, 4), bool)
    mask[0] = True
    meta = as_meta_tensor(volume(padding=mask, padding_value=-5.0), "case").meta
    np.testing.assert_array_equal(meta["padding_mask"].numpy(), mask)
    assert meta["padding_value"] == -5.0
    assert not {"padding_mask", "padding_value"} & as_meta_tensor(volume(), "case").meta.keys()


def test_files_are_loaded_under_the_case_s_name(tmp_path):
    path = save_nifti(tmp_path / "head.nii.gz", ARRAY.astype(np.int16), AFFINE)
    for item, name in (({"image": str(path)}, "head"), ({"image": str(path), "case": 7}, "7")):
        result = LoadImageVolumed("image")(item)
        assert result["image"].meta["filename_or_obj"] == f"{name}.nii.gz"
        np.testing.assert_array_equal(result["image"][0].numpy(), ARRAY)
    assert LoadImageVolumed("image", case_key="who")({"image": str(path), "who": "x"})["image"].meta[
        "filename_or_obj"
    ] == "x.nii.gz"  # fmt: skip
    with pytest.raises(CaseError, match="must exist"):
        LoadImageVolumed("image")({"image": str(tmp_path / "absent.nii.gz")})
    with pytest.raises(KeyError):
        LoadImageVolumed("image")({})
    assert LoadImageVolumed("image", allow_missing_keys=True)({}) == {}


def writer(array=ARRAY):
    made = AtomicNibabelWriter(output_dtype=np.float32)
    made.set_data_array(torch.from_numpy(array)[None], channel_dim=0)
    made.set_metadata({"affine": AFFINE, "original_affine": np.eye(4)}, resample=True)
    return made


def test_a_result_is_written_on_its_own_grid(tmp_path):
    """MONAI would resample it to ``original_affine``."""
    writer().write(tmp_path / "a.nii.gz")
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), ARRAY)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def half(path, *_, **__):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nibabel.save", lambda image, path: half(path))
    with pytest.raises(OSError, match="No space left"):
        writer().write(tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())
