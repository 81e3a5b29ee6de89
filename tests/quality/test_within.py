# SPDX-License-Identifier: Apache-2.0
"""Detail, ghosts and spikes of made-up slices whose amount of each is known."""

import math

import pytest
import torch
from scripts.quality.within import detail_db, ghosting, spikes_db


def test_white_noise_has_as_much_detail_as_there_is_and_zero_filling_takes_it():
    noise = torch.randn(64, 64, 6, generator=torch.Generator().manual_seed(0))
    assert detail_db(noise) == pytest.approx(0, abs=0.5)
    spectrum = torch.fft.fftn(noise, dim=(0, 1))
    spectrum[:, 16:48] = 0  # one axis is enough
    assert detail_db(torch.fft.ifftn(spectrum, dim=(0, 1)).real) < -14


def body(ghost, axis=0, move=32, size=96):
    x = torch.linspace(-1, 1, size)
    tissue = 0.8 * ((x[:, None] ** 2 + x[None] ** 2) < 0.16).float()
    image = tissue + ghost * (tissue.roll(move, axis) + tissue.roll(-move, axis))
    return (2 * image - 1)[..., None].repeat(1, 1, 4)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ghost_is_as_bright_as_it_was_made(axis):
    assert ghosting(body(0.1, axis)) == pytest.approx(0.1, abs=0.03)
    assert ghosting(body(0.0, axis)) == pytest.approx(0, abs=1e-3)


def test_without_air_nothing_can_be_told():
    assert ghosting(torch.zeros(40, 40, 4)) is None


def test_a_spike_stands_out_of_its_slice_by_its_own_height():
    size, at = 64, (20, 12)
    slices = torch.randn(size, size, 6, generator=torch.Generator().manual_seed(0))
    assert spikes_db(slices) < 12
    i, j = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    strength = 2.0
    slices[..., 2] += strength * torch.cos(2 * torch.pi * (at[0] * i + at[1] * j) / size)
    # the spike is as high as half the sum of the window; the median of white noise is sqrt(ln 2 sum of its squares),
    # twice that is what a block is divided by, and the highest of 64 points is about sqrt(ln 64 / ln 2) medians
    spike = strength / 2 * (size / 2) ** 2
    median = math.sqrt(math.log(2)) * 3 * size / 8
    highest = math.sqrt(math.log(64) / math.log(2)) * median
    assert spikes_db(slices) == pytest.approx(20 * math.log10(spike / highest), abs=1.5)


def test_stripes_that_every_slice_has_are_no_spike():
    slices = torch.randn(64, 64, 6, generator=torch.Generator().manual_seed(0))
    stripes = 2 * torch.cos(torch.arange(64) * 2.0)[:, None, None]
    assert spikes_db(slices + stripes) < 12
    assert spikes_db(slices + stripes * torch.tensor([0, 0, 1, 0, 0, 0])) > 20


@pytest.mark.parametrize("slices", [torch.randn(12, 40, 5), torch.zeros(1, 30, 3)])
def test_slices_of_a_few_pixels_cannot_show_a_spike(slices):
    assert spikes_db(slices) is None


def test_empty_slices_are_no_spike():
    slices = torch.zeros(64, 64, 6)
    assert spikes_db(slices) == 0
    slices[..., 3] = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert spikes_db(slices) < 12
