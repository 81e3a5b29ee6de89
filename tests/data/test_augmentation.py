# SPDX-License-Identifier: Apache-2.0
"""What common.json does to a patch before it is made thick: each step by itself, at its own probability."""

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from tests.conftest import BUNDLE

IMAGE = (torch.rand(1, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1).float()


def results(count=200, image=IMAGE, **ids):
    """The patch after augmentation, for ``count`` seeds."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "common.json"))
    parser.update(ids)
    transform = Compose(parser.get_parsed_content("augmentation"))
    found = []
    for seed in range(count):
        transform.set_random_state(seed)
        found.append(torch.as_tensor(transform({"image": image.clone()})["image"]))
    return found


def flips(image):
    return [image, image.flip(1), image.flip(2), image.flip(1, 2)]


def unflipped(found, image=IMAGE):
    """The one of the four orientations of a result that resembles the patch most."""
    return min(flips(found), key=lambda candidate: float((candidate - image).abs().mean()))


def test_by_default_patches_are_only_flipped_each_way_alike():
    found = results(400)
    counts = [sum(torch.equal(image, flip) for image in found) for flip in flips(IMAGE)]
    assert sum(counts) == 400
    assert all(70 < count < 130 for count in counts)


def test_inversion_is_a_sign():
    found = results(invert_probability=1.0)
    assert all(any(torch.equal(image, -flip) for flip in flips(IMAGE)) for image in found)
    some = results(400, invert_probability=0.25)
    inverted = sum(any(torch.equal(image, -flip) for flip in flips(IMAGE)) for image in some)
    assert 70 < inverted < 130


def test_histogram_shift_keeps_the_order_and_the_range():
    found = results(50, histogram_probability=1.0)
    order = IMAGE.flatten().argsort()
    changed = 0
    for image in map(unflipped, found):
        assert bool((image.flatten()[order].diff() >= -1e-5).all())
        assert float(image.min()) == pytest.approx(float(IMAGE.min()), abs=1e-4)
        assert float(image.max()) == pytest.approx(float(IMAGE.max()), abs=1e-4)
        changed += not torch.allclose(image, IMAGE, atol=1e-3)
    assert changed == 50


def test_bias_is_a_smooth_positive_factor():
    flat = torch.ones(1, 12, 16)
    fields = results(50, flat, bias_field_probability=1.0)
    for field in fields:  # the exponential of a polynomial of the third degree, whose fourth differences are 0
        assert float(field.min()) > 0
        for axis in (1, 2):
            assert float(field.double().log().diff(n=4, dim=axis).abs().max()) < 1e-4
        assert float(field.std()) > 1e-4
    assert len({round(float(field.mean()), 5) for field in fields}) == 50


def test_the_seed_decides():
    ids = dict.fromkeys(("invert_probability", "histogram_probability", "bias_field_probability"), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(results(20, **ids), results(20, **ids), strict=True))
