# SPDX-License-Identifier: Apache-2.0
"""evaluate.json with evaluation_axis in_plane: the slices of a thick scan are the truth."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.networks.srnet import SRNet

from tests.configs.test_inference_config import SIZE
from tests.conftest import BUNDLE, TINY_NETWORK, make_affine, run_workflow, save_nifti, smooth_volume


def evaluate(tmp_path, zeros=True, **ids):
    torch.manual_seed(0)
    network = SRNet(**TINY_NETWORK)
    if zeros:
        torch.nn.init.zeros_(network.reconstruct.weight)  # exactly cubic
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    run_workflow(
        "inference.json", "evaluate.json", workflow_type="infer", bundle_root=str(BUNDLE),
        dataset_dir=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), ckpt_path=str(tmp_path / "weights.pt"),
        device="cpu", progress=False, evaluation_axis="in_plane", volumes=True, **SIZE, **ids,
    )  # fmt: skip
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


@pytest.mark.parametrize("orientation", [{}, {"permute": (1, 2, 0), "flip": (1, -1, 1), "rotate": (4, 3, 0)}])
def test_slices_are_made_thick_along_each_of_their_own_axes(tmp_path, orientation):
    """Pixels of 1 mm, slices every 4 mm, K = 4: the pixels stay, and four of them are a slice."""
    scan = smooth_volume((32, 28, 9), seed=1) - 100  # negative values: no floor
    affine = make_affine([1, 1, 4], **orientation)
    save_nifti(tmp_path / "in" / "knee.nii.gz", scan, affine)
    metrics = evaluate(tmp_path, slice_profile="box", data_consistency="off", background=-9)
    assert sorted(metrics["cases"]) == ["knee_in_plane0", "knee_in_plane1"]
    for case, scores in metrics["cases"].items():
        folder = tmp_path / "out" / "volumes" / case
        truth, ours = (nib.load(folder / f"{name}.nii.gz") for name in ("truth", "ours"))
        np.testing.assert_allclose(truth.get_fdata(), scan, atol=1e-3)
        np.testing.assert_allclose(truth.affine, affine, atol=1e-4)
        np.testing.assert_allclose(ours.affine, affine, atol=1e-4)
        assert scores["ours"]["psnr"] == pytest.approx(scores["bicubic"]["psnr"], abs=1e-3)
        assert (tmp_path / "out" / "pictures" / f"{case}.png").stat().st_size > 1000
    errors = [
        np.abs(np.diff(nib.load(tmp_path / "out" / "volumes" / case / "ours.nii.gz").get_fdata(), axis=axis)).mean()
        for case in sorted(metrics["cases"])
        for axis in (0, 1)
    ]
    # one case is smoother along one axis, the other along the other
    assert (errors[0] < errors[1]) != (errors[2] < errors[3])


def test_pixels_become_those_of_the_thin_slices(tmp_path):
    """0.5 mm pixels, slices every 4 mm, K = 4: thin slices of 1 mm, each about the mean of two pixels."""
    scan = smooth_volume((40, 48, 8), seed=1, detail=0.05)
    affine = make_affine([0.5, 0.5, 4])
    save_nifti(tmp_path / "in" / "knee.nii.gz", scan, affine)
    evaluate(tmp_path)
    truth = nib.load(tmp_path / "out" / "volumes" / "knee_in_plane0" / "truth.nii.gz")
    assert truth.shape == (20, 48, 8)
    centre = affine @ [0.5, 0, 0, 1]  # between the first two pixels
    np.testing.assert_allclose(truth.affine @ [0, 0, 0, 1], centre, atol=1e-4)
    pairs = scan.reshape(20, 2, 48, 8).mean(1)
    assert np.abs(truth.get_fdata() - pairs).mean() < 0.05 * scan.mean()


def test_only_the_scans_own_slices_are_images(tmp_path):
    """Each slice holds another texture; where one of them changes, the results of the others stay."""
    scan = np.stack([smooth_volume((24, 24, 3), seed=k)[:, :, 1] for k in range(8)], axis=2)
    results = []
    for _ in range(2):
        scan[:, :, 3] = scan[::-1, ::-1, 3].copy()  # the same histogram, so the same range of intensities
        save_nifti(tmp_path / "in" / "s.nii.gz", scan, make_affine([1, 1, 4]))
        evaluate(tmp_path, zeros=False, data_consistency="off", pictures=False, background=-9, mr_percentiles=[1, 99.9])
        results.append(nib.load(tmp_path / "out" / "volumes" / "s_in_plane0" / "ours.nii.gz").get_fdata())
    np.testing.assert_allclose(results[0][:, :, 2], results[1][:, :, 2], atol=1e-2)
    assert np.abs(results[0][:, :, 3] - results[1][:, :, 3]).max() > 10


def test_a_scan_of_few_slices_is_refused_with_its_reason(tmp_path, capsys):
    save_nifti(tmp_path / "in" / "s.nii.gz", smooth_volume((24, 24, 5)), make_affine([1, 1, 4]))
    with pytest.raises(SystemExit):
        evaluate(tmp_path)
    assert "TOO_SMALL: a scan must have at least 8 slices" in capsys.readouterr().err
