# SPDX-License-Identifier: Apache-2.0
"""Faults between slices: made by hand on stacks whose slices fit together, found with the size that they have."""

import numpy as np
import pytest
import torch
from scipy.ndimage import shift as move
from scripts.quality.between import intensity_steps, opposed_shift, slice_shifts


@pytest.fixture(scope="module")
def stack():
    """A smooth body that changes slowly from slice to slice, unit range: ``(64, 64, 9)``."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, 64)] * 2, indexing="ij")
    slices = [
        0.5 * np.cos(9 * x + 0.05 * k) * np.cos(7 * y - 0.03 * k) * (x**2 + y**2 < 0.6) + (x**2 + y**2 < 0.7) - 0.9
        for k in range(9)
    ]
    return torch.from_numpy(np.stack(slices, axis=-1).astype(np.float32))


def shifted(stack, moves):
    array = stack.numpy().copy()
    for k, by in moves.items():
        array[..., k] = move(array[..., k], by, order=3, mode="nearest")
    return torch.from_numpy(array)


def test_slices_that_fit_together_have_no_shift(stack):
    assert float(slice_shifts(stack).abs().max()) < 0.05


@pytest.mark.parametrize("by", [(1.0, 0.0), (0.0, -2.5), (1.5, 2.0)])
def test_the_shift_of_one_slice_is_found_in_pixels(stack, by):
    found = slice_shifts(shifted(stack, {4: by}))
    assert found.shape == (7, 2)
    torch.testing.assert_close(found[3], torch.tensor(by), atol=0.2, rtol=0)
    assert float(found[[0, 1, 5, 6]].abs().max()) < 0.05  # neither the slice nor its neighbour


def test_shifts_that_the_next_slice_does_not_undo_are_no_motion():
    back_and_forth = torch.tensor([[0.0, 2.0], [0.0, -2.0]]).repeat(3, 1)
    assert opposed_shift(back_and_forth) == pytest.approx(2)
    assert opposed_shift(back_and_forth.abs()) == 0  # anatomy that leans one way
    aside = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).repeat(3, 1)
    assert opposed_shift(aside) == 0
    assert opposed_shift(back_and_forth[:1]) is None


def test_every_other_slice_moved_is_found_with_its_size_and_growing_anatomy_is_not(stack):
    moved = shifted(stack, dict.fromkeys(range(1, 9, 2), (1.5, 0.0)))
    assert opposed_shift(slice_shifts(moved)) == pytest.approx(1.5, abs=0.2)
    leaning = shifted(stack, {k: (0.2 * k * k, 0.0) for k in range(9)})  # each is 0.2 pixels off its neighbours' mean
    assert float(slice_shifts(leaning)[1:-1, 0].abs().median()) > 0.1
    assert opposed_shift(slice_shifts(leaning)) < 0.05


def test_slices_of_air_have_no_shift():
    assert slice_shifts(torch.full((40, 40, 6), -1.0)).shape == (0, 2)


def test_a_tenth_less_signal_in_every_other_slice_is_a_step_of_a_tenth(stack):
    dark = stack.clone()
    dark[..., 1::2] = (dark[..., 1::2] + 1) * 0.9 - 1
    steps = intensity_steps(dark, [0.5])[0]
    torch.testing.assert_close(steps[0::2], torch.full((4,), -0.1), atol=0.01, rtol=0)
    torch.testing.assert_close(steps[1::2], torch.full((3,), 1 / 0.9 - 1), atol=0.01, rtol=0)
    assert float(intensity_steps(stack, [0.5]).abs().max()) < 0.01


def test_a_step_is_what_nearly_all_tissue_agrees_on():
    """Ten voxels change by -0.1, 0, 0.1 ... 0.8: eight tenths of them exceed 0.08. A darker part undoes the step."""
    slices = torch.zeros(10, 1, 3)
    slices[:, 0, 1] = torch.arange(10) / 10 - 0.1
    assert float(intensity_steps(slices, [0.8])) == pytest.approx(0.08)  # between the second and the third of ten
    assert float(intensity_steps(slices, [0.5])) == pytest.approx(0.35)
    slices[:3, 0, 1] = -0.2
    assert float(intensity_steps(slices, [0.8])) == 0
    slices[:9, 0, 1] = -0.2
    assert float(intensity_steps(slices, [0.8])) == pytest.approx(-0.2)
