# SPDX-License-Identifier: Apache-2.0
"""The calibration of the disagreement map, against maps whose worth is known."""

import numpy as np
import pytest

from studies.calibrate import calibration


def test_a_perfect_map_ranks_everything():
    error = np.random.default_rng(0).exponential(1.0, 20000)
    result = calibration(error.copy(), error, bins=10)
    assert result["spearman"] == pytest.approx(1.0)
    assert result["error_in_top_tenth"] == pytest.approx(result["error_in_top_tenth_best"])
    # exponential: the squared error above the 90th percentile q = ln 10 is e^-q (q^2 + 2q + 2) / 2 of all
    q = np.log(10)
    assert result["error_in_top_tenth_best"] == pytest.approx(0.1 * (q**2 + 2 * q + 2) / 2, rel=0.05)
    spread, rms = np.transpose(result["bins"])
    assert np.all(np.diff(spread) > 0)
    np.testing.assert_allclose(spread, rms, rtol=0.3)


def test_a_map_of_chance_ranks_nothing():
    rng = np.random.default_rng(1)
    result = calibration(rng.random(20000), rng.exponential(1.0, 20000), bins=10)
    assert abs(result["spearman"]) < 0.03
    assert result["error_in_top_tenth"] == pytest.approx(0.1, abs=0.02)


def test_a_scaled_map_ranks_as_well_but_its_scale_shows():
    error = np.random.default_rng(2).exponential(1.0, 5000)
    result = calibration(error / 3, error, bins=5)
    assert result["spearman"] == pytest.approx(1.0)
    spread, rms = np.transpose(result["bins"])
    assert np.all(rms[1:] / spread[1:] > 2.8)
    assert result["widen_to_90"] == pytest.approx(3)


def test_an_exact_map_is_told_apart_from_a_wrong_one():
    rng = np.random.default_rng(3)
    scale = np.exp(rng.normal(size=20000))
    exact = calibration(scale, scale * rng.exponential(size=20000), bins=5)
    assert exact["spearman"] == pytest.approx(exact["spearman_if_exact"], abs=0.02)
    assert exact["widen_to_90"] == pytest.approx(np.log(10), rel=0.03)  # exponential errors
    chance = calibration(scale, rng.permutation(scale) * rng.exponential(size=20000), bins=5)
    assert chance["spearman"] < 0.03 < exact["spearman_if_exact"]
