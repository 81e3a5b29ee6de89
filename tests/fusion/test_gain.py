# SPDX-License-Identifier: Apache-2.0
"""The gain between two stacks against fields that are known."""

import numpy as np
import pytest
from scripts.fusion.gain import fit_gain, gain_field


def test_an_exponential_fall_off_is_found_and_is_the_same_on_thick_slices():
    rng = np.random.default_rng(0)
    wanted = rng.uniform(100, 1000, (24, 20, 16))
    x = (np.arange(24) + 0.5) / 24  # share of the slab
    known = np.ones(wanted.shape, bool)
    known[:, :3] = False
    own = np.where(known, wanted * np.exp(-1.5 * x)[:, None, None] / 2, 7)
    own[known] *= rng.normal(1, 0.05, known.sum())
    own[5, 5:9, 5:9] = 900  # a few voxels that differ
    fit = fit_gain(wanted, own, known)
    np.testing.assert_allclose(gain_field(fit, wanted.shape)[:, 10, 8], 2 * np.exp(1.5 * x), rtol=0.02)
    thick = (np.arange(4) + 0.5) / 4
    np.testing.assert_allclose(gain_field(fit, (4, 20, 16))[:, 10, 8], 2 * np.exp(1.5 * thick), rtol=0.02)


def test_what_shares_no_tissue_has_no_gain():
    wanted, own = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    wanted[:3], own[5:] = 100, 100
    with pytest.raises(ValueError, match="share tissue, got 0"):
        fit_gain(wanted, own, np.ones((8, 8, 8), bool))
