# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.intensity import IntensityRange
from scripts.transforms.consistency import DataConsistency, in_plane_noise_sigma, scan_operator
from scripts.transforms.load import as_meta_tensor
from scripts.transforms.orient import OrientThickAxisLast
from scripts.volume import Volume

from tests.conftest import make_affine, smooth_volume


def acquired(volume, spacing_mm=4.0, thickness_mm=None, scale_factor=4):
    scan = Volume(volume, make_affine([1, 1, spacing_mm]), np.dtype(np.float32), thickness_mm)
    image = OrientThickAxisLast()(as_meta_tensor(scan, "case"))
    image.meta["scale_factor"] = scale_factor
    return image


@pytest.mark.parametrize(
    ("spacing", "header", "override", "fwhm"),
    [
        (4.0, None, None, 4.0),
        (4.8, 4.0, None, 4 * 4.0 / 4.8),
        (4.0, 5.0, None, 5.0),
        (4.0, 5.0, 3.0, 3.0),
        (6, 1.0, None, 1),
    ],
)
def test_width_comes_from_the_thickness_and_step_from_the_positions(spacing, header, override, fwhm):
    image = acquired(smooth_volume((16, 16, 6)), spacing, header)
    assert scan_operator(image, "gaussian", override).fwhm == pytest.approx(fwhm, abs=5e-4)


@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_noise_is_measured_on_structure(sigma):
    rng = np.random.default_rng(0)
    volume = smooth_volume((96, 96, 12), detail=0.05) + rng.normal(0, sigma, (96, 96, 12)).astype(np.float32)
    image = acquired(volume)
    unit = image * (2 / 1500) - 1
    assert in_plane_noise_sigma(unit) == pytest.approx(sigma * 2 / 1500, rel=0.2)


def modes(truth, noise=0.0, seed=0, scale_factor=4):
    operator = SliceProfileOperator(SliceGrid.under_slab(truth.shape[-1], scale_factor))
    truth = truth[..., : operator.grid.n_thin]
    clean = operator.degrade(truth)
    torch.manual_seed(seed)
    image = acquired((clean + noise * torch.randn(clean.shape)).numpy(), scale_factor=scale_factor)
    estimate = truth + 10 * torch.randn(truth.shape)
    results = {}
    scale = IntensityRange(0.0, 1500.0)
    for mode in ("exact", "regularised", "off"):
        pred, residual, _ = DataConsistency(mode)(scale.to_unit(estimate[None]), scale.to_unit(image))
        results[mode] = (float((scale.from_unit_(pred[0]) - truth).square().mean()), residual)
    return results


@pytest.mark.parametrize("scale_factor", [4, 2.5])
def test_exact_leaves_no_residual_and_off_changes_nothing(scale_factor):
    found = modes(torch.from_numpy(smooth_volume((24, 24, 40))), scale_factor=scale_factor)
    assert found["exact"][1] < 1e-6
    assert found["off"][1] > 1e-3
    assert found["exact"][0] < found["regularised"][0] * 1.02 < found["off"][0]


def test_regularised_copies_less_noise_than_exact():
    found = modes(torch.from_numpy(smooth_volume((48, 48, 40), detail=0.02)), noise=60.0)
    assert found["regularised"][0] < found["exact"][0]


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="data_consistency must be one of"):
        DataConsistency("maybe")
