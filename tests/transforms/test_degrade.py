# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.transforms.degrade import RandDegrade, RandDegraded, thicken

from tests.conftest import make_affine


def test_pair_is_a_profile_applied_to_the_target():
    transform = RandDegrade(4, {"gaussian": 1.0}, (1.0, 1.0))
    transform.set_random_state(0)
    hr = torch.rand(1, 6, 32)
    lr, label = transform(hr)
    assert torch.equal(label, hr)
    torch.testing.assert_close(lr, SliceProfileOperator(4, "gaussian", 4.0).degrade(hr))


def test_margin_keeps_pair_aligned_and_hides_the_border():
    """With a margin the pair is the middle of a larger pair, as if the patch had been cut from a whole volume."""
    transform = RandDegrade(4, {"gaussian": 1.0}, (1.2, 1.2), margin_slices=2)
    transform.set_random_state(0)
    whole = torch.rand(1, 3, 160)
    lr, label = transform(whole[..., 40:120])
    expected = SliceProfileOperator(4, "gaussian", 4.8).degrade(whole)
    assert torch.equal(label, whole[..., 48:112])
    torch.testing.assert_close(lr, expected[..., 12:28])


def test_profiles_and_widths_are_drawn_as_asked():
    transform = RandDegraded(
        "image", scale_factor=4, profiles={"box": 1, "decimation": 3}, thickness_to_spacing=(0.7, 1.2)
    )
    hr = torch.rand(1, 2, 16)
    decimated = SliceProfileOperator(4, "decimation").degrade(hr)
    hits = 0
    for seed in range(200):
        transform.set_random_state(seed)
        result = transform({"image": hr})
        hits += bool(torch.allclose(result["image"], decimated))
        assert torch.equal(result["label"], hr)
    assert 120 < hits < 180  # 3/4 of 200


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_profile_is_the_mean_of_the_slices_and_sits_in_their_middle(axis):
    shape = [3, 4, 5]
    shape[axis] = 9  # one slice is left over
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    affine = make_affine([1.0, 1.5, 0.8], rotate=(5, -3, 8))
    thick, thick_affine = thicken(volume, affine, scale_factor=4, thick_axis=axis, profile="box")
    slices = np.moveaxis(volume, axis, 0)
    expected = np.moveaxis(np.stack([slices[:4].mean(0), slices[4:8].mean(0)]), 0, axis)
    np.testing.assert_allclose(thick, expected, atol=1e-6)
    for slice_index, middle in ((0, 1.5), (1, 5.5)):
        point, fine = np.zeros(4), np.zeros(4)
        point[[axis, 3]], fine[[axis, 3]] = (slice_index, 1), (middle, 1)
        np.testing.assert_allclose(thick_affine @ point, affine @ fine, atol=1e-9)
