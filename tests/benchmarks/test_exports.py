# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scripts.networks.srnet import SRNet

from benchmarks.exports import figures, scan_slices, table
from tests.conftest import TINY_NETWORK, make_affine, save_nifti, smooth_volume, told


def test_slices_contain_the_thick_axis_whatever_the_storage_order(tmp_path):
    volume = np.round(smooth_volume((7, 26, 30)))
    scan = save_nifti(tmp_path / "a.nii.gz", volume.astype(np.int16), make_affine([4, 1, 1]))
    (slices, positions, condition), per_unit = scan_slices(scan, 5)
    assert slices.shape == (5, 1, 30, 7)
    assert (len(positions), condition.shape) == (28, (1, 4))  # isotropic: 4 mm to 1 mm
    low, high = np.percentile(volume, (0.5, 99.5))
    np.testing.assert_allclose(per_unit, (high - low) / 2, rtol=1e-3)


@pytest.mark.slow
def test_table_has_a_row_per_engine_and_sees_a_difference():
    torch.manual_seed(0)
    network = SRNet(**TINY_NETWORK).eval().requires_grad_(False)
    rows = figures(network, (torch.rand(2, 1, 20, 8), *told(8, 2.5)), rounds=1)
    assert [row["engine"] for row in rows] == ["torch", "torchscript", "onnxruntime", "openvino"]
    assert all(row["error"] < 1e-5 and row["seconds"] > 0 for row in rows)
    rows[2]["error"] = 0.01
    lines = table(rows, per_unit=500).splitlines()
    assert len(lines) == 2 + 4
    assert "5.0e+00" in lines[4]
    assert len({line.count("|") for line in lines}) == 1
