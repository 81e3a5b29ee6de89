# SPDX-License-Identifier: Apache-2.0
"""Correlation by band against waves whose agreement is known, and the part of a stack that another grid shows."""

import numpy as np
import pytest

from studies.orthogonal import bands, common_box, crop_to
from tests.conftest import make_affine, world_ramp


def test_a_band_sees_its_own_waves_only():
    places = np.arange(64) * 0.5  # mm
    slow, fast = np.sin(2 * np.pi * 0.125 * places), np.sin(2 * np.pi * 0.5 * places)
    other = np.cos(2 * np.pi * 0.5 * places)  # a quarter of a period away: no agreement
    seen = np.tile(slow + fast, (3, 4, 1))
    found = np.tile(slow + 0.3 * other, (3, 4, 1))
    limits = np.array([0.05, 0.25, 0.7, 1.0, 1.1])
    correlation = bands(found, seen, 2, 0.5, limits)
    assert correlation[0] == pytest.approx(1, abs=1e-3)
    assert correlation[1] == pytest.approx(0, abs=1e-2)
    assert correlation[3] is None  # beyond what 0.5 mm can sample
    assert bands(0.1 * seen + 7, seen, 2, 0.5, limits)[:2] == pytest.approx([1, 1])
    assert bands(-seen.swapaxes(0, 2), seen.swapaxes(0, 2), 0, 0.5, limits)[:2] == pytest.approx([-1, -1])


def test_the_part_of_a_stack_lies_where_it_lay():
    affine, other = make_affine([1, 1, 4], rotate=(3, 0, 5)), make_affine([4, 1, 1], origin=(-28, 35, 13))
    stack, shown = world_ramp((60, 50, 10), affine), np.zeros((5, 20, 40))
    part, moved = crop_to(stack, affine, 2, shown, other)
    assert part.shape[2] == 10
    assert part.shape[0] < 60
    assert part.shape[1] < 50
    np.testing.assert_allclose(part, world_ramp(part.shape, moved), atol=1e-6)


def test_the_common_box_holds_what_is_known():
    known = np.zeros((10, 12, 14), bool)
    known[2:9, 3:11, 1:13] = True
    assert known[common_box(known, 1)].all()
    assert known[common_box(known, 1)].shape == (7, 8, 12)
