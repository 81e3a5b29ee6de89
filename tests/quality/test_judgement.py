# SPDX-License-Identifier: Apache-2.0
"""The judgement of a scan by its own slices, against errors that were put there."""

import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.inference.in_plane import Pairs, in_plane_pairs
from scripts.quality.judgement import Changes, Judgement, changes_in_scan, conformal_factor, judge, renew_noise

from tests.conftest import oriented_scan, smooth_volume


def test_the_factor_covers_nine_tenths_of_new_errors_of_the_same_kind():
    rng = np.random.default_rng(0)
    expected = torch.from_numpy(rng.uniform(0.01, 0.1, 20000).astype(np.float32))
    errors = torch.from_numpy((expected.numpy() * rng.laplace(0, 1, 20000)).astype(np.float32)).abs()
    factor = conformal_factor(errors[:10000], expected[:10000], 0.9)
    assert factor == pytest.approx(np.log(10), rel=0.05)  # |Laplace(1)| exceeds x with probability exp(-x)
    assert float((errors[10000:] <= factor * expected[10000:]).float().mean()) == pytest.approx(0.9, abs=0.02)


def test_the_factor_is_the_right_order_statistic():
    errors, ones = torch.arange(1.0, 20.0), torch.ones(19)  # 19 scores: the 18th of them holds 90 %
    assert conformal_factor(errors, ones, 0.9) == 18
    assert conformal_factor(errors[:3], ones[:3], 0.9) == 3  # too few to be sure: the largest


@pytest.fixture
def pairs():
    """Four patches of 16 x 48 at K = 4 of a texture that a cubic does not know."""
    volume = torch.from_numpy(smooth_volume((96, 96, 6), seed=2, detail=0.6)) / 800 - 1
    scan = oriented_scan(volume, 4.0)
    return in_plane_pairs(scan, (16, 48), 8, "box", None, 0)(4, torch.arange(6))


def operator(eps=0.0):
    return SliceProfileOperator(SliceGrid.covering(48, 4.0), "box", 1.0)


def test_pairs_are_box_means_of_the_truth(pairs):
    assert pairs.image.shape == (4, 1, 16, 12)
    expected = pairs.label.reshape(4, 1, 16, 12, 4).mean(-1)
    torch.testing.assert_close(pairs.image, expected, atol=1e-5, rtol=0)


def test_thick_slices_made_of_noise_are_as_noisy_as_it_again():
    noise = 0.1 * torch.randn(8, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    made = Pairs(operator().degrade(noise), noise, torch.zeros(48), torch.zeros(8, 4))
    assert float(made.image.std()) == pytest.approx(0.1 / 2, rel=0.03)  # the mean of four
    assert float(renew_noise(made, operator(), 0.1, 1).image.std()) == pytest.approx(0.1, rel=0.03)


def test_gains_are_those_of_the_errors_that_were_put_there(pairs):
    """A network that knows the truth but for an error that no slice shows: alternating within each of them."""
    wave = 0.05 * torch.tensor([1.0, -1.0]).repeat(24)
    answers = iter(pairs.label[:, 0] + wave)

    def forward(images, told):
        return torch.stack([next(answers), torch.full((16, 48), 0.05)])[None]

    found = judge(forward, pairs, operator(), 0.0)
    torch.testing.assert_close(found.network.abs(), torch.full_like(found.network, 0.05), atol=2e-3, rtol=0)
    # the definition, by hand: inner columns only, tissue only
    inner = slice(6, 42)
    label = pairs.label[:, 0][..., inner].numpy()
    knots = np.arange(12) * 4 + 1.5
    import scipy.interpolate as si

    linear = si.interp1d(knots, pairs.image[:, 0].numpy(), axis=-1)(np.arange(6, 42))
    tissue = label > -0.8
    worst = 10 * np.log10(np.mean((linear - label)[tissue] ** 2) / 0.05**2)
    over_cubic = found.gain_over_cubic_db(Changes(1.0, 1.0), 0.0)
    assert over_cubic == pytest.approx(worst, abs=1.5)  # cubic is a little better than linear
    assert 0 < found.gain_over_consistent_cubic_db(Changes(1.0, 1.0), 0.0) < over_cubic
    assert conformal_factor(found.network.abs(), found.expected, 0.9) == pytest.approx(1, abs=0.05)


def test_cubic_itself_gains_nothing(pairs):
    from scripts.networks.interpolation import interpolate_cubic

    found = judge(lambda images, told: interpolate_cubic(images, told[0])[:, None], pairs, operator(), 0.0)
    assert found.gain_over_consistent_cubic_db(Changes(1.0, 1.0), 0.5) == pytest.approx(0, abs=1e-6)
    assert found.expected is None


@pytest.mark.parametrize(("network", "cubic", "db"), [(1.0, 2.0, 10 * np.log10(7)), (2.0, 1.0, -10 * np.log10(4))])
def test_the_lead_grows_with_what_the_network_changes_in_the_scan(network, cubic, db):
    """Errors of 1 and 2 are a lead of 4 - 1. Squared changes of 1 there and 16 in the scan: 1 + 3 * 16^(1/4) = 7.

    Only the network's lead grows.
    """
    ours, theirs = torch.full((8,), network), torch.full((8,), cubic)
    found = Judgement(ours, theirs, theirs, None)
    assert found.gain_over_cubic_db(Changes(16.0, 0.0), 0.25) == pytest.approx(db)
    assert found.gain_over_consistent_cubic_db(Changes(0.0, 16.0), 0.25) == pytest.approx(db)
    assert abs(found.gain_over_cubic_db(Changes(16.0, 0.0), 0.0)) == pytest.approx(10 * np.log10(4))


def test_changes_are_those_that_data_consistency_leaves_and_air_does_not_count():
    from scripts.networks.interpolation import interpolate_cubic

    scan_operator = SliceProfileOperator(SliceGrid.over_slab(6, 4.0), "box", 1.0)
    scan = torch.full((20, 8, 6), 0.2)
    scan[:10] = -1.0
    wave = torch.tensor([0.1, -0.1]).repeat(12)  # no slice shows it
    pred = interpolate_cubic(scan, scan_operator.grid.positions_tensor()) + wave
    shown = changes_in_scan(pred + 0.3, scan, scan_operator, 0.0)  # the slices show the offset, squared 0.09
    assert shown.consistent_cubic == pytest.approx(0.01, rel=0.05)
    assert shown.cubic == pytest.approx(0.01, rel=0.05)
    assert changes_in_scan(pred, torch.full_like(scan, -1.0), scan_operator, 0.0) is None


def test_air_cannot_be_judged(pairs):
    air = Pairs(torch.full_like(pairs.image, -1.0), torch.full_like(pairs.label, -1.0), *pairs[2:])
    assert judge(lambda images, told: torch.zeros(1, 1, 16, 48), air, operator(), 0.0) is None
