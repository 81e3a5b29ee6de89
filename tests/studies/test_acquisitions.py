# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from studies.acquisitions import compare, rhythm
from tests.conftest import smooth_volume


def test_a_stair_has_a_rhythm_by_hand():
    """Steps of 1 everywhere against steps of 2, 1 and 1: the ratios are 2, 1 and 1."""
    truth = np.broadcast_to(np.arange(13.0), (2, 3, 13))
    steps = np.tile([2.0, 1.0, 1.0], 4)
    result = np.broadcast_to(np.concatenate([[0.0], steps.cumsum()]), (2, 3, 13))
    assert rhythm(truth, truth, 3) == pytest.approx(1)
    assert rhythm(5 * truth + 2, truth, 3) == pytest.approx(1)
    assert rhythm(result, truth, 3) == pytest.approx(2)


def test_noise_lowers_the_gain_of_a_smooth_volume():
    volume = torch.from_numpy(smooth_volume((24, 24, 32)))[None].float()
    image = MetaTensor(volume, meta={"original_affine": np.eye(4)})
    rows = [compare(image, "axial", 4, "box", 1.0, noise) for noise in (0.0, 0.1)]
    assert rows[0]["gain_db"] > 0
    assert rows[0]["gain_db"] > rows[1]["gain_db"]
    assert rows[0]["rhythm"] >= 1
