# SPDX-License-Identifier: Apache-2.0
"""Adaptation to one scan: helps a network that has something to learn, never harms one that has not."""

import copy
import logging

import numpy as np
import pytest
import torch
from scripts.inference.adaptation import InPlaneAdaptation
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.srnet import SRNet

from tests.conftest import TINY_NETWORK, oriented_scan, smooth_volume, told


@pytest.fixture
def scan():
    voxels = smooth_volume((64, 64, 12), seed=3, detail=0.5)
    voxels = voxels / voxels.max() * 2 - 1
    return oriented_scan(voxels, 4.0, slice_thickness_mm=4.0)[None]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SRNet(**{**TINY_NETWORK, "features": 8, "thin_features": 8}).eval()


def adaptation(**overrides):
    settings = {
        "iterations": 30, "learning_rate": 3e-3, "batch_size": 4, "size": (32, 32),
        "margin": 4, "holdout": 4, "check_patches": 8, "consistency": "exact",
        "least_gain_db": 0.0,
    }  # fmt: skip
    return InPlaneAdaptation(**{**settings, **overrides})


def error_on_all_slices(network, scan):
    """Independent of the class: every slice made thick with a plain gaussian, what data consistency leaves judged."""
    weights = np.exp(-((np.arange(16)[None] - (np.arange(4)[:, None] * 4 + 1.5)) ** 2) / (2 * (4 / 2.3548) ** 2))
    weights /= weights.sum(1, keepdims=True)
    spread = np.exp(-0.5 * (np.subtract.outer(np.arange(16), np.arange(16)) / 3) ** 2) @ weights.T
    left = torch.from_numpy(np.eye(16) - spread @ np.linalg.inv(weights @ spread) @ weights).float()
    total = 0.0
    for k in range(scan.shape[-1]):
        image = scan.as_tensor()[0, 0, :, :, k]
        for start in range(0, 64, 16):
            hr = image[:, start : start + 16]
            lr = hr @ torch.from_numpy(weights).float().T
            with torch.no_grad():
                error = network(lr[None, None], *told(4, 4, 1.0, 0.25))[0, 0] - hr
            total += float((error @ left.T).square().mean())
    return total


def test_an_untrained_network_gains_on_the_scan_and_the_original_stays(scan, network):
    before = copy.deepcopy(network.state_dict())
    adapted = adaptation()(network, scan)
    assert adapted is not network
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert error_on_all_slices(adapted, scan) < 0.98 * error_on_all_slices(network, scan)


class Brightened(torch.nn.Module):
    """Linear interpolation plus a trainable constant, an error that data consistency removes."""

    def __init__(self):
        super().__init__()
        self.constant = torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, image, positions, condition):
        low = positions.clamp(0, image.shape[-1] - 1).floor().long().clamp(max=image.shape[-1] - 2)
        share = (positions - low).clamp(0, 1)
        return image[..., low] * (1 - share) + image[..., low + 1] * share + self.constant


def test_an_error_that_data_consistency_removes_counts_only_without_it(scan):
    """Nine tenths of the error are the constant, which no step can bring a gain by where it is corrected anyhow."""
    settings = {"learning_rate": 0.05, "least_gain_db": 0.5}
    network = Brightened()
    assert adaptation(**settings, consistency="exact")(network, scan) is network
    adapted = adaptation(**settings, consistency="off")(network, scan)
    assert adapted is not network
    assert abs(adapted.constant.item()) < 0.1


def test_same_seed_same_weights_other_seed_other_weights(scan, network):
    first, again, other = (adaptation(seed=s)(network, scan).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_the_guard_returns_the_original_where_the_held_out_slices_lose(scan, network, caplog):
    with caplog.at_level(logging.INFO):
        assert adaptation(learning_rate=5.0, iterations=3)(network, scan) is network
    assert "original weights kept" in caplog.text


def test_a_gain_that_is_too_small_is_not_kept(scan, network, caplog):
    settings = {"iterations": 5, "learning_rate": 1e-3}
    adapted = adaptation(**settings)(network, scan)
    assert adapted is not network
    with caplog.at_level(logging.INFO):
        assert adaptation(**settings, least_gain_db=30.0)(network, scan) is network
    assert "original weights kept" in caplog.text
    gain_db = 10 * np.log10(error_on_all_slices(network, scan) / error_on_all_slices(adapted, scan))
    assert 0 < gain_db < 30


def test_zero_iterations_do_nothing_and_nonsense_is_refused(scan, network):
    assert adaptation(iterations=0)(network, scan) is network
    with pytest.raises(ValueError, match="adapt_iterations must be >= 0"):
        adaptation(iterations=-1)
    with pytest.raises(TypeError, match="trainable"):
        adaptation()(lambda x: x, scan)
    with pytest.raises(TypeError, match="MetaTensor"):
        adaptation()(network, scan.as_tensor())


def test_it_works_under_the_evaluators_no_grad(scan, network):
    inferer = ThroughPlaneInferer("gaussian", adapt=adaptation(iterations=5), progress=False)
    plain = ThroughPlaneInferer("gaussian", progress=False)
    with torch.no_grad():
        assert not torch.equal(inferer(scan, network), plain(scan, network))


def test_a_real_factor_is_adapted_to_as_well(scan, network):
    scan.meta["scale_factor"] = 2.5
    adapted = adaptation()(network, scan)
    assert adapted is not network
    assert not torch.equal(adapted.reconstruct.weight, network.reconstruct.weight)


def test_steps_in_mixed_precision_help_as_well(scan, network):
    adapted = adaptation(autocast="bfloat16")(network, scan)
    assert adapted is not network
    assert all(p.dtype == torch.float32 for p in adapted.parameters())
    assert error_on_all_slices(adapted, scan) < 0.98 * error_on_all_slices(network, scan)
