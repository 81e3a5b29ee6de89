# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scripts.transforms.contrast import RandRowBlurd, RandToneCurved


def apply(transform, image, seed):
    transform.set_random_state(seed)
    return transform({"image": image})["image"]


@pytest.mark.parametrize("seed", range(5))
def test_a_tone_curve_is_one_function_of_the_intensity_and_keeps_air(seed):
    image = torch.linspace(-1, 1, 401)[torch.randperm(401)].reshape(1, 1, 401)
    curved = apply(RandToneCurved("image", prob=1.0, points=(2, 6)), image, seed)
    assert curved.dtype == torch.float32
    assert curved.shape == image.shape
    assert curved.abs().max() <= 1
    order = image.flatten().argsort()
    values = curved.flatten()[order].double().numpy()
    assert values[0] == -1  # air stays air
    # piecewise linear with at most six places inside, where its slope changes
    bends = np.abs(np.diff(values, 2)) > 1e-5
    assert 1 <= np.count_nonzero(np.diff(bends.astype(int)) == 1) + bends[0] <= 6
    doubled = apply(RandToneCurved("image", prob=1.0, points=(2, 6)), torch.cat([image, image], dim=1), seed)
    assert torch.equal(doubled[:, :1], doubled[:, 1:])


def test_rows_are_blurred_by_a_gaussian_and_columns_are_not():
    image = torch.rand(1, 40, 30)
    blurred = apply(RandRowBlurd("image", prob=1.0, sigma=(1.1, 1.1)), image, 0)
    expected = gaussian_filter1d(image[0].numpy(), 1.1, axis=0, mode="nearest", radius=4)
    np.testing.assert_allclose(blurred[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "transform", [RandToneCurved("image", prob=0.3, points=(2, 6)), RandRowBlurd("image", prob=0.3, sigma=(0.5, 1.0))]
)
def test_how_often_and_seeded(transform):
    image = torch.rand(1, 12, 12) * 2 - 1
    changed = sum(not torch.equal(apply(transform, image, seed), image) for seed in range(200))
    assert 40 < changed < 80
    assert torch.equal(apply(transform, image, 7), apply(transform, image, 7))
