# SPDX-License-Identifier: Apache-2.0
"""A head behind a field-of-view mask: as good inside it as without, and nowhere below the scan's minimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import zoom
from scripts.inference.predictor import Predictor
from scripts.nifti import read_nifti

from tests.dicom.synthetic import write_series

pytestmark = [pytest.mark.shared, pytest.mark.slow]

FACTOR = 4
PADDING = -32768
HALF = 64, 64, 24  # of the part that is taken, voxels


def psnr(result, truth, where):
    error = float(np.mean((result - truth)[where] ** 2))
    return 10 * np.log10(float(np.ptp(truth)) ** 2 / error)


def test_a_padded_head_gains_what_the_whole_one_gains(shared_data, tmp_path):
    """T1 of 1 mm made thick fourfold (box), as DICOM, with and without a round field of view in its slices."""
    scan = read_nifti(shared_data / "test" / "mr_hr" / "t1_philips571.nii.gz")
    axis = int(np.argmax(np.abs(scan.affine_ras[2, :3])))
    truth = np.moveaxis(scan.array, axis, -1)
    middle = tuple(slice(n // 2 - half, n // 2 + half) for n, half in zip(truth.shape, HALF, strict=True))
    truth = np.clip(np.rint(truth[middle] * (2000 / truth.max())), 0, None)
    thick = np.rint(truth.reshape(*truth.shape[:2], -1, FACTOR).mean(axis=-1)).astype(np.int32)
    affine = np.diag([*np.delete(np.linalg.norm(scan.affine_ras[:3, :3], axis=0), axis), 4.0, 1.0])
    i, j = np.indices(truth.shape[:2]) - np.array(truth.shape[:2]).reshape(2, 1, 1) / 2
    outside = i**2 + j**2 > (0.38 * min(truth.shape[:2])) ** 2  # cuts through the head

    def pad(_, ds):
        ds.add_new("PixelPaddingValue", "SS", PADDING)
        return ds

    write_series(tmp_path / "whole", thick, affine, signed=True, SliceThickness="4")
    padded = np.where(outside[:, :, None], PADDING, thick)
    write_series(tmp_path / "padded", padded, affine, signed=True, SliceThickness="4", edit=pad)
    predict = Predictor(device="cpu", scale_factor=FACTOR, target_spacing_mm=None, progress=False)
    inside = np.broadcast_to(~outside[:, :, None], truth.shape)
    cubic = psnr(zoom(thick.astype(float), (1, 1, FACTOR), order=3, grid_mode=True, mode="nearest"), truth, inside)
    gains = {}
    for name in ("whole", "padded"):
        result = predict(tmp_path / name).numpy()
        found = result.astype(np.float64)
        gains[name] = psnr(found, truth, inside) - cubic
        assert result.dtype == np.int16
        assert found[inside].min() >= thick.min()
        if name == "padded":
            assert (found[~inside] == PADDING).all()
    assert gains["whole"] > 0.5, gains
    assert gains["padded"] > gains["whole"] - 0.3, gains
