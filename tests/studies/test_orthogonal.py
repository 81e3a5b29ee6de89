# SPDX-License-Identifier: Apache-2.0
"""Correlation by band against waves whose agreement is known, and what one grid shows of another, however it lies."""

import numpy as np
import pytest
from scripts.fusion.resampling import grid_voxels

from studies.orthogonal import bands, crop_to, frequencies, shown_in, taper
from tests.conftest import make_affine, world_ramp

NORMAL = np.array([0.0, 0.0, 1.0])


def wave(shape, affine, direction, cycles_per_mm, phase=0.0):
    places = np.tensordot(affine[:3, :3], grid_voxels(shape), axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    return np.cos(2 * np.pi * cycles_per_mm * np.tensordot(direction, places, axes=1) + phase)


@pytest.mark.parametrize("tilt", [0, 18])
def test_a_band_sees_its_own_waves_only_however_the_slices_lie(tilt):
    shape, affine = (4, 96, 100), make_affine([3, 0.5, 0.5], rotate=(tilt, 0, 0))
    along, across = frequencies(shape, affine, 0, NORMAL)
    window, limits = np.ones(shape), np.array([0.05, 0.25, 0.7, 1.0])
    window *= np.hanning(96)[:, None] * np.hanning(100)
    slow, fast = (wave(shape, affine, NORMAL, cycles) for cycles in (0.125, 0.5))
    late = wave(shape, affine, NORMAL, 0.5, np.pi / 2)  # a quarter of a period: no agreement
    # within the slices of the stack, where it shows all that there is: no reason to find agreement across them
    within = wave(shape, affine, np.array([0.0, 1.0, 0.0]), 0.9)
    correlation = bands(slow + 0.3 * late + within, slow + fast + within, window, 0, (along, across), limits)
    assert correlation == pytest.approx([1, 0, correlation[2]], abs=2e-2)
    assert bands(within, -within, window, 0, (across, along), limits, 0.1)[2] == pytest.approx(-1, abs=1e-3)
    assert bands(7 - 2 * fast, fast, window, 0, (along, across), limits)[1] == pytest.approx(-1, abs=1e-3)
    assert bands(fast, fast, window, 0, (along, across), np.array([1.5, 1.6])) == [None]


def test_frequencies_are_those_of_the_patient_by_hand():
    affine = make_affine([0.5, 3, 0.4])
    along, across = frequencies((10, 7, 8), affine, 1, NORMAL)
    assert along[3, 2] == pytest.approx(2 / (8 * 0.4))
    assert across[3, 2] == pytest.approx(3 / (10 * 0.5))


def test_what_another_grid_shows_is_known_wherever_its_voxels_lie_in_the_stack():
    """A stack turned by 20 degrees: everything within its slab counts, and a linear ramp stays itself."""
    stack, affine = (40, 44, 30), make_affine([1, 1, 1], origin=(-20, -22, -15))
    shape, other = (6, 60, 64), make_affine([4, 1, 1], rotate=(20, 0, 0), origin=(-12, -15, -40))
    values, known = shown_in(world_ramp(stack, affine), affine, shape, other, 0)
    # the outermost of the five samples over a slice of 4 mm lie 1.6 mm off its middle
    places = grid_voxels(shape)
    expected, inner = np.ones(shape, bool), np.ones(shape, bool)
    for move in (-0.4, 0.4):
        moved = places + np.array([move, 0, 0]).reshape(3, 1, 1, 1)
        own = np.tensordot((np.linalg.inv(affine) @ other)[:3, :3], moved, axes=1)
        own += (np.linalg.inv(affine) @ other)[:3, 3].reshape(3, 1, 1, 1)
        last = np.array(stack).reshape(3, 1, 1, 1) - 1
        expected &= ((own >= -1e-3) & (own <= last + 1e-3)).all(axis=0)
        inner &= ((own > 7) & (own < last - 7)).all(axis=0)  # splines bend a ramp at its ends
    assert 3000 < expected.sum() < 0.5 * expected.size
    assert inner.sum() > 500
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_allclose(values[inner], world_ramp(shape, other)[inner], atol=1e-2)
    window = taper(known, 0, np.array([4.0, 1.0, 1.0]))
    np.testing.assert_array_equal(window > 0, known)  # no voxel that is known is left out


def test_the_taper_over_a_strip_is_the_hann_window_across_it():
    known = np.zeros((2, 80, 30), bool)
    known[:, :, 8:23] = True  # 15 voxels, and the zeros on both sides
    window = taper(known, 0, np.array([4.0, 1.0, 0.5]))
    np.testing.assert_allclose(window[1, 40, 7:24], np.hanning(17), atol=1e-6)
    assert not taper(np.zeros((1, 4, 4), bool), 0, np.ones(3)).any()


def test_the_part_of_a_stack_lies_where_it_lay():
    affine, other = make_affine([1, 1, 4], rotate=(3, 0, 5)), make_affine([4, 1, 1], origin=(-28, 35, 13))
    stack, shown = world_ramp((60, 50, 10), affine), np.zeros((5, 20, 40))
    part, moved = crop_to(stack, affine, 2, shown, other)
    assert part.shape[2] == 10
    assert part.shape[0] < 60
    assert part.shape[1] < 50
    np.testing.assert_allclose(part, world_ramp(part.shape, moved), atol=1e-6)
