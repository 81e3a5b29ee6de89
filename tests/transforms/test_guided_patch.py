# SPDX-License-Identifier: Apache-2.0
"""The guide beside a training patch: where it lies, computed by hand on volumes that hold their own coordinates."""

import numpy as np
import pytest
import torch
from scripts.transforms.degrade import RandDegraded
from scripts.transforms.guide import RandGuidedPatchd, move_patch

SPACING_MM = (1.0, 1.5, 0.8)


def ramps(rows, columns, spacing_mm):
    """Coordinates in mm from the centre, ``(1, rows, columns)`` each."""
    y = (torch.arange(rows, dtype=torch.float32) - (rows - 1) / 2) * spacing_mm[0]
    x = (torch.arange(columns, dtype=torch.float32) - (columns - 1) / 2) * spacing_mm[1]
    return y[None, :, None].expand(1, rows, columns), x[None, None].expand(1, rows, columns)


@pytest.mark.parametrize(
    ("shift_mm", "angle"), [((0, 0), 0), ((1.3, 0), 0), ((0, -2.2), 0), ((0, 0), 10), ((1, -2), -7)]
)
def test_a_moved_patch_shows_what_lies_at_the_moved_places(shift_mm, angle):
    spacing_mm = (1.2, 0.7)
    y, x = ramps(20, 30, spacing_mm)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    for patch, expected in ((y, c * y - s * x + shift_mm[0]), (x, s * y + c * x + shift_mm[1])):
        moved, known = move_patch(patch, spacing_mm, shift_mm, angle)
        inside = torch.zeros(20, 30, dtype=torch.bool)
        inside[7:-7, 7:-7] = True  # away from the border
        # torch's cubic (a = -3/4) of a straight line is off by up to 0.04 pixels along each axis
        torch.testing.assert_close(moved[inside], expected[0][inside], atol=0.07, rtol=0)
        assert known[inside].all()
        assert (moved[known == 0] == 0).all()


def test_what_a_moved_patch_does_not_show_is_unknown():
    _, known = move_patch(torch.ones(1, 10, 12), (2.0, 1.0), (4.0, -3.0), 0)  # two rows, three columns
    expected = torch.zeros(10, 12)
    expected[:8, 3:] = 1
    assert torch.equal(known, expected)


def guided(volume, seed, **how):
    settings = {"shift_mm": (0, 0), "angle_degrees": 0, "wrong": 0, "wrong_shift_mm": (6, 9), **how}
    transform = RandGuidedPatchd("image", planes="any", size=(16, 20), min_std=0, **settings)
    transform.set_random_state(seed)
    return transform({"image": volume, "spacing_mm": SPACING_MM})


def coordinates():
    """Three volumes that hold the mm along their axes."""
    grid = torch.meshgrid(*[torch.arange(50) * s for s in SPACING_MM], indexing="ij")
    return [axis[None].float() for axis in grid]


def test_an_unmoved_guide_is_the_patch():
    volume = torch.rand(1, 50, 50, 50)
    for seed in range(5):
        found = guided(volume, seed)
        torch.testing.assert_close(found["guide"][:1], found["image"], atol=1e-5, rtol=0)
        assert (found["guide"][1] == 1).all()


def test_the_guide_is_moved_by_the_length_that_is_asked_for_in_all_directions():
    offsets = []
    for seed in range(60):
        parts = [guided(volume, seed, shift_mm=(3, 3)) for volume in coordinates()]
        if not parts[0]["guide"][1].any():  # moved out of the volume
            continue
        middle = [(part["guide"][0] - part["image"][0])[6:-6, 6:-6] for part in parts]
        assert all(float(m.std()) < 1e-4 for m in middle)
        offsets.append([float(m.mean()) for m in middle])
    lengths = np.linalg.norm(offsets, axis=1)
    assert np.all(np.abs(lengths - 3) <= max(SPACING_MM) / 2 + 1e-3)  # across the patch it moves by whole slices
    assert lengths.mean() == pytest.approx(3, abs=0.15)
    assert np.abs(offsets).min(axis=1).max() > 0.5  # in general along no axis
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.8


def test_wrong_guides_come_as_often_as_asked_for():
    volume = torch.rand(1, 50, 50, 50)
    kinds = []
    for seed in range(120):
        found = guided(volume, seed, wrong=0.4)
        kinds.append(torch.allclose(found["guide"][:1], found["image"], atol=1e-5))
    assert np.mean(kinds) == pytest.approx(0.6, abs=0.12)
    with pytest.raises(ValueError, match="guide_wrong must be a share"):
        guided(volume, 0, wrong=1.2)


def test_the_guide_is_cut_to_the_columns_of_the_target():
    patch = torch.rand(1, 16, 40)
    degrade = RandDegraded("image", beside=["guide"], profiles={"gaussian": 1.0}, thickness_to_spacing=(1, 1), margin=8)
    found = degrade(
        {"image": patch, "guide": torch.cat([patch, patch]), "spacing_mm": torch.ones(2), "scale_factor": 4.0}
    )
    assert torch.equal(found["guide"], torch.cat([found["label"], found["label"]]))
