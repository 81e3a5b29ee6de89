# SPDX-License-Identifier: Apache-2.0
"""The spoilt scans are spoilt as their names say."""

import numpy as np

from studies.failure_cases import cases, checkerboard, ghosting, heavy_noise, interpolated, slice_motion
from tests.conftest import smooth_volume


def test_checkerboard_reaches_the_finest_period_and_knows_no_anatomy():
    board = checkerboard((64, 32, 64))
    assert set(np.sign(np.diff(board[0, 0]))) <= {-1, 0, 1}
    changes = [(np.diff(board[i, 16]) != 0).sum() for i in (0, 63)]
    assert changes[0] > 2 * changes[1] > 0


def test_noise_is_rician_of_the_stated_size():
    flat = np.full((40, 40, 40), 1000.0)
    noisy = heavy_noise(flat, np.random.default_rng(0), 0.15)
    assert abs(noisy.std() - 150) < 10
    assert noisy.min() > 0


def test_ghosts_lie_where_the_shift_says():
    point = np.zeros((8, 12, 4))
    point[4, 6, 2] = 10
    ghosts = ghosting(point, 3, 0.2)
    assert ghosts[4, 6, 2] == 10
    assert ghosts[4, 9, 2] == ghosts[4, 3, 2] == 2


def test_motion_leaves_every_other_slice():
    thick = np.random.default_rng(1).random((24, 24, 6))
    moved = slice_motion(thick, np.random.default_rng(0), 4)
    assert [bool(np.array_equal(moved[..., k], thick[..., k])) for k in range(6)] == [True, False] * 3


def test_interpolation_keeps_the_shape_and_loses_detail():
    thick = smooth_volume((24, 24, 6), detail=1.0)
    low = interpolated(thick)
    assert low.shape == thick.shape
    assert np.abs(np.diff(low, axis=0)).sum() < np.abs(np.diff(thick, axis=0)).sum()


def test_every_case_gives_thick_slices_of_its_truth():
    volume = smooth_volume((64, 64, 16))
    for name, (truth, spoil) in cases(volume, seed=0).items():
        assert truth.ndim == 3, name
        thick = np.float32(truth[..., ::4])
        assert spoil(thick).shape == thick.shape, name
