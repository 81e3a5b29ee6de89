# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scripts.evaluation.metrics import foreground, psnr, score_volume
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests.conftest import smooth_volume


@pytest.fixture
def pair():
    truth = smooth_volume((30, 26, 24), seed=4)
    return truth + np.random.default_rng(0).normal(0, 30, truth.shape).astype(np.float32), truth


def test_psnr_by_hand_and_by_scikit_image(pair):
    truth = np.array([[0.0, 10.0], [4.0, 2.0]])
    assert psnr(truth + 1, truth, 10.0) == pytest.approx(20.0)  # 10 log10(100 / 1)
    assert psnr(truth, truth, 10.0) == np.inf
    result, truth = pair
    expected = peak_signal_noise_ratio(truth, result, data_range=np.ptp(truth))
    assert psnr(result, truth, float(np.ptp(truth))) == pytest.approx(expected, abs=1e-3)


def test_every_figure_against_a_second_computation(pair):
    result, truth = pair
    scores = score_volume(result, truth, thick_axis=1)
    data_range = float(truth.max() - truth.min())
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, result, data_range=data_range), abs=1e-3)
    assert scores["ssim"] == pytest.approx(structural_similarity(truth, result, data_range=data_range), abs=1e-3)
    slices = [(result[i], truth[i]) for i in range(30) if (truth[i] > 0).any()]
    slices += [(result[:, :, k], truth[:, :, k]) for k in range(24) if (truth[:, :, k] > 0).any()]
    expected = np.mean([peak_signal_noise_ratio(t, r, data_range=data_range) for r, t in slices])
    assert scores["psnr_slices"] == pytest.approx(expected, abs=0.3)  # the tissue mask is Otsu's, not > 0
    mask = truth > 0  # the phantom's body
    assert (foreground(truth) != mask).mean() < 0.05
    error = np.mean((result[mask] - truth[mask]) ** 2)
    assert scores["psnr_foreground"] == pytest.approx(10 * np.log10(data_range**2 / error), abs=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_half_voxel_shift_is_seen(axis):
    from scipy.ndimage import shift

    truth = smooth_volume((40, 36, 32), seed=1).astype(np.float64)
    moved = shift(truth, [0.5 if a == axis else 0 for a in range(3)], order=3)
    back = shift(moved, [-0.5 if a == axis else 0 for a in range(3)], order=3)
    assert score_volume(moved, truth, 2)["psnr"] < score_volume(back, truth, 2)["psnr"] - 3


def test_wrong_shape_and_constant_truth_are_refused(pair):
    with pytest.raises(ValueError, match="one shape"):
        score_volume(pair[0][1:], pair[1], 2)
    with pytest.raises(ValueError, match="constant"):
        score_volume(np.ones((9, 9, 9)), np.ones((9, 9, 9)), 2)
