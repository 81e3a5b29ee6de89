# SPDX-License-Identifier: Apache-2.0
"""Detail and ghosts of made-up slices whose amount of either is known."""

import pytest
import torch
from scripts.quality.within import detail_db, ghosting


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
