# SPDX-License-Identifier: Apache-2.0
"""The study that chose the slice profile of real scans finds the profile that made-up scans have."""

import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid

from studies.slice_profiles import middle, study
from tests.conftest import smooth_volume


@pytest.mark.parametrize(("profile", "ratio"), [("gaussian", 1.0), ("gaussian", 0.8), ("box", 1.0)])
def test_the_true_profile_needs_no_correction_and_brings_no_rhythm(profile, ratio):
    truth = torch.from_numpy(smooth_volume((24, 24, 48), seed=1))
    acquired = SliceProfileOperator(SliceGrid.under_slab(truth.shape[-1], 4), profile, ratio).degrade(truth)
    rows = study(acquired, truth, 4)  # a network that is always right
    correction, period = rows[f"{profile} {ratio:g}"]
    assert correction < 1e-5
    assert period == pytest.approx(rows["network alone"][1], abs=1e-3)
    assert all(
        c > 0.005
        for name, (c, _) in rows.items()
        if " " in name and name not in (f"{profile} {ratio:g}", "network alone")
    )


def test_middle_takes_all_slices():
    volume = np.arange(5 * 30 * 40).reshape(5, 30, 40).astype(np.float32)
    cut = middle(volume, 0, 8)
    assert cut.shape == (8, 8, 5)
    np.testing.assert_array_equal(cut[0, 0], volume[:, 11, 16])
