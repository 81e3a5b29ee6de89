# SPDX-License-Identifier: Apache-2.0
"""The bundle from Python, as docs/python.md says it."""

import re

import nibabel as nib
import numpy as np
import pytest
from scripts.geometry import SliceGrid
from scripts.inference.predictor import Predictor

from tests.conftest import BUNDLE, ROOT, make_affine, run_workflow, save_nifti, smooth_volume
from tests.dicom.synthetic import write_series

AFFINE = make_affine([1.0, 1.1, 4.0], rotate=(5, 3, -8))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(device="cpu", progress=False)


@pytest.fixture
def scan(tmp_path):
    return save_nifti(tmp_path / "scan.nii.gz", np.round(smooth_volume((26, 24, 9))).astype(np.int16), AFFINE)


def assert_close(found, expected):
    assert found.dtype == expected.dtype
    difference = np.abs(found.astype(float) - expected.astype(float))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_blocks_of_the_page_run_and_give_what_the_command_gives(tmp_path, monkeypatch, scan):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(BUNDLE)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
    assert len(blocks) == 4
    monkeypatch.setattr("sys.path", ["placeholder"] + __import__("sys").path)
    names = {}
    for block in blocks[:2]:
        exec(compile(block, "docs/python.md", "exec"), names)
    run_workflow(
        "inference.json", workflow_type="infer", bundle_root=str(BUNDLE), dataset_dir=str(scan),
        output_dir=str(tmp_path / "out"), device="cpu", progress=False,
    )  # fmt: skip
    expected = nib.load(tmp_path / "out" / "scan_sr.nii.gz")
    for found in (nib.load("thin.nii.gz"), names["predictor"]("scan.nii.gz")):
        voxels = np.asarray(found.dataobj) if hasattr(found, "dataobj") else found.numpy()
        assert_close(voxels, np.asarray(expected.dataobj))
        np.testing.assert_allclose(np.asarray(found.affine), expected.affine, atol=1e-4)
    for block in blocks[2:]:
        exec(compile(block, "docs/python.md", "exec"), names)


def test_array_file_and_series_give_the_same(tmp_path, predictor, scan):
    image = nib.load(scan)
    array = np.asarray(image.dataobj)
    write_series(tmp_path / "series", array.astype(np.int32), AFFINE, SliceThickness=4)
    from_file = predictor(scan)
    assert from_file.shape == (26, 24, 36)
    np.testing.assert_allclose(from_file.affine, SliceGrid.over_slab(9, 4).thin_affine(image.affine, 2), atol=1e-4)
    np.testing.assert_array_equal(predictor(array, image.affine).numpy(), from_file.numpy())
    from_series = predictor(tmp_path / "series").numpy()
    assert np.abs(from_series.astype(int) - from_file.numpy()).max() <= 1
    assert array.flags.writeable
    np.testing.assert_array_equal(array, np.asarray(nib.load(scan).dataobj))


def test_dtypes(predictor):
    volume = smooth_volume((26, 24, 9))
    for given, expected in (("float64", "float32"), (">i2", "int16"), ("int64", "float32"), ("float32", "float32")):
        assert predictor(volume.astype(given), AFFINE).numpy().dtype == np.dtype(expected)


def test_thickness_of_an_array_reaches_data_consistency(predictor):
    volume = smooth_volume((26, 24, 9)).astype(np.float32)
    thin = predictor(volume, AFFINE, slice_thickness_mm=2.0).numpy()
    assert np.abs(thin - predictor(volume, AFFINE).numpy()).max() > 1


def test_refusals(predictor, scan):
    array = np.zeros((20, 20, 8), np.int16)
    with pytest.raises(ValueError, match="affine must be given with an array"):
        predictor(array)
    with pytest.raises(ValueError, match="must be left out for a file"):
        predictor(scan, AFFINE)
    with pytest.raises(ValueError, match=r"must be \(I, J, K\) numbers, got 4 axes"):
        predictor(array[None], AFFINE)
    with pytest.raises(ValueError, match="got dataconsistency"):
        Predictor(dataconsistency="exact")
