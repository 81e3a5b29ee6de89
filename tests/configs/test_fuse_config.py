# SPDX-License-Identifier: Apache-2.0
"""fuse.json: stacks in, one volume and a report out; and what is refused."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.networks.srnet import SRNet
from scripts.transforms.degrade import thicken
from typer.testing import CliRunner

from tests.configs.test_inference_config import SIZE
from tests.conftest import TINY_NETWORK, make_affine, save_nifti, smooth_volume
from thinslice.__main__ import app


@pytest.fixture
def truth(tmp_path):
    """Three stacks of a made-up knee in tmp_path, and weights that are cubic; returns volume and affine."""
    torch.manual_seed(0)
    network = SRNet(**TINY_NETWORK)
    torch.nn.init.zeros_(network.reconstruct.weight)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    volume, affine = smooth_volume((32, 36, 40), seed=3), make_affine([1, 1, 1], rotate=(5, -3, 8))
    for name, axis in (("tra", 2), ("cor", 1), ("sag", 0)):
        thick, thick_affine = thicken(volume, affine, scale_factor=4, thick_axis=axis, profile="box")
        save_nifti(tmp_path / f"{name}.nii.gz", thick, thick_affine)
    return volume, affine


def fuse(tmp_path, *names, **ids):
    ids = {"ckpt_path": tmp_path / "weights.pt", "device": "cpu", "progress": False, **SIZE, **ids}
    settings = [word for name, value in ids.items() for word in ("--set", f"{name}={value}")]
    paths = [str(tmp_path / f"{name}.nii.gz") for name in names]
    return CliRunner().invoke(app, ["fuse", *paths, str(tmp_path / "out"), *settings])


def test_three_stacks_become_one_volume_on_the_grid_of_the_first(tmp_path, truth, capfd):
    volume, affine = truth
    result = fuse(tmp_path, "tra", "cor", "sag", register_stacks=False)
    assert result.exit_code == 0, result.output
    fused = nib.load(tmp_path / "out" / "fused.nii.gz")
    assert fused.shape == volume.shape
    np.testing.assert_allclose(fused.affine, affine, atol=1e-4)
    report = json.loads((tmp_path / "out" / "fused.json").read_text())
    assert [stack["case"] for stack in report["stacks"]] == ["0_tra", "1_cor", "2_sag"]
    assert report["spacing_mm"] == pytest.approx([1, 1, 1])
    assert "32 x 36 x 40 voxels of 1 x 1 x 1 mm" in capfd.readouterr().out
    # the mean of four neighbours along each axis is what was acquired
    found = fused.get_fdata()
    for axis, name in enumerate(("sag", "cor", "tra")):
        acquired = nib.load(tmp_path / f"{name}.nii.gz").get_fdata()
        shape = [*found.shape[:axis], found.shape[axis] // 4, 4, *found.shape[axis + 1 :]]
        difference = found.reshape(shape).mean(axis + 1) - acquired
        assert np.sqrt(np.mean(difference**2)) < 0.02 * np.ptp(volume)


def test_what_cannot_be_fused_gets_a_line_before_the_network_is_asked(tmp_path, truth, capfd, monkeypatch):
    def asked(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(SRNet, "forward", asked)
    (tmp_path / "again.nii.gz").write_bytes((tmp_path / "tra.nii.gz").read_bytes())
    assert fuse(tmp_path, "tra", "again").exit_code == 3
    assert "fuse: STACKS_DIFFER: the slices of 0_tra and 1_again must be at least 30 degrees" in capfd.readouterr().err
    other, affine = smooth_volume((8, 36, 40), seed=9), nib.load(tmp_path / "sag.nii.gz").affine
    save_nifti(tmp_path / "other.nii.gz", 1000 - other, affine)
    assert fuse(tmp_path, "tra", "other").exit_code == 3
    assert "fuse: STACKS_DIFFER: 1_other must be of the same contrast and place as 0_tra" in capfd.readouterr().err
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    assert fuse(tmp_path, "tra", "broken", "again").exit_code == 3
    assert "broken" in capfd.readouterr().err
    assert not (tmp_path / "out" / "fused.nii.gz").exists()
    assert "fuse must have at least two stacks" in str(fuse(tmp_path, "tra").exception)
