# SPDX-License-Identifier: Apache-2.0
"""How much of a volume a study of fusion may take: what every stack still shows after the patient has moved."""

import numpy as np
import pytest

from studies.fuse import largest_middle
from tests.conftest import make_affine, rotation


def about(centre, degrees, shift_mm=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift_mm
    return matrix


def test_a_shift_takes_its_own_length_from_both_ends():
    affine = make_affine([1, 1, 2])
    start, shape = largest_middle((40, 40, 40), affine, [about(np.zeros(3), (0, 0, 0), (3, 0, 0))], None, 4)
    assert shape == [32, 40, 40]  # 3 voxels at one end, so 6 of the middle, and then a multiple of 4
    assert start == [4, 0, 0]
    assert largest_middle((40, 40, 40), affine, [np.eye(4)], 21, 4) == ([10, 10, 10], [20, 20, 20])


def test_a_rotated_middle_lies_inside_and_is_hardly_smaller_than_it_must_be():
    """A square turned by t fits into one of side s if it has the side s / (cos t + sin t)."""
    affine = make_affine([1, 1, 1], origin=(-50, -50, -10))
    turned = about(np.zeros(3), (0, 0, 5))
    _, shape = largest_middle((101, 101, 21), affine, [turned, np.linalg.inv(turned)], None, 1)
    side = 100 / (np.cos(np.radians(5)) + np.sin(np.radians(5)))
    assert shape[2] == 21
    assert np.array(shape[:2]) - 1 == pytest.approx([side, side], abs=2.5)


def test_a_movement_that_leaves_nothing_is_told():
    with pytest.raises(SystemExit, match="lower --degrees"):
        largest_middle((8, 8, 8), np.eye(4), [about(np.zeros(3), (0, 0, 0), (9, 0, 0))], None, 4)
