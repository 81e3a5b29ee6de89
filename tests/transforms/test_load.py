# SPDX-License-Identifier: Apache-2.0
"""Loading: what a map of labels is, and what travels with an image."""

import numpy as np
import pytest
from monai.data import DataLoader
from scripts.reasons import CaseError, Reason
from scripts.transforms.load import LoadImageVolumed, as_meta_tensor
from scripts.volume import Volume

from tests.conftest import make_affine, save_nifti

AFFINE = make_affine([1, 1, 4])


@pytest.mark.parametrize(
    ("n_values", "dtype", "refused"),
    [(2, np.uint8, True), (31, np.int16, True), (31, np.float32, True), (32, np.int16, False), (200, np.int16, False)],
)
def test_few_whole_values_are_a_map_of_labels(tmp_path, n_values, dtype, refused):
    path = save_nifti(tmp_path / "x.nii.gz", (np.arange(600).reshape(10, 10, 6) % n_values).astype(dtype), AFFINE)
    load = LoadImageVolumed("image", min_distinct_values=32)
    if refused:
        with pytest.raises(CaseError) as caught:
            load({"image": path})
        assert caught.value.reason is Reason.LABEL_MAP
    else:
        load({"image": path})
    LoadImageVolumed("image")({"image": path})


def test_fractions_are_no_labels(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", (np.arange(600).reshape(10, 10, 6) % 9 / 8).astype(np.float32), AFFINE)
    LoadImageVolumed("image", min_distinct_values=32)({"image": path})


def test_what_the_reader_knows_survives_a_batch_of_one():
    """As the evaluator's data loader makes it; None becomes NaN, since a batch holds none."""
    padding = np.zeros((4, 5, 6), dtype=bool)
    padding[0] = True
    volume = Volume(
        np.zeros((4, 5, 6), np.float32), AFFINE, np.dtype(np.int16), padding=padding, padding_value=-32768.0,
        meta={"lossy": True, "slice_gap_mm": None, "body_part": "head", "sform": AFFINE},
    )  # fmt: skip
    (batch,) = DataLoader([{"image": as_meta_tensor(volume, "x")}], batch_size=1)
    meta = batch["image"].meta
    np.testing.assert_array_equal(meta["padding_mask"][0], padding)
    assert float(meta["padding_value"]) == -32768
    assert bool(meta["lossy"])
    assert np.isnan(float(meta["slice_gap_mm"]))
    assert meta["body_part"] == ["head"]
    np.testing.assert_array_equal(meta["sform"][0], AFFINE)
