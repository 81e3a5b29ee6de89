# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.networks.interpolation import interpolate_cubic, keep_linear
from torch.nn import functional as F

from tests.conftest import told


def keys(t, a=-0.75):
    """Keys' kernel."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 5])
def test_a_whole_factor_is_torchs_bicubic(scale_factor):
    image = torch.rand(2, 3, 8, 9)
    expected = F.interpolate(image, scale_factor=(1, scale_factor), mode="bicubic", align_corners=False)
    torch.testing.assert_close(interpolate_cubic(image, told(9, scale_factor)[0]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale_factor", [1.5, 2.5, 3.31, 7.2])
def test_any_position_takes_keys_kernel_of_the_samples_around_it(scale_factor):
    line = torch.rand(12, dtype=torch.float64)
    positions = told(12, scale_factor)[0].double()
    result = interpolate_cubic(line.expand(3, 12), positions)
    for j, position in enumerate(positions.tolist()):
        inside = [sum(keys(position - i) * line[min(max(i, 0), 11)] for i in range(-3, 15))]
        torch.testing.assert_close(result[1, j], inside[0])


def test_rows_do_not_see_each_other():
    image, positions = torch.rand(1, 1, 13, 5), told(5, 2.7)[0]
    single = torch.cat([interpolate_cubic(image[:, :, i : i + 1], positions) for i in range(13)], dim=2)
    torch.testing.assert_close(interpolate_cubic(image, positions), single, atol=0, rtol=0)


def test_a_half_reproduces_ramps():
    positions = told(12, 2.7)[0]
    inner = (positions >= 1) & (positions <= 10)
    torch.testing.assert_close(interpolate_cubic(torch.arange(12.0), positions, a=-0.5)[inner], positions[inner])


def test_a_result_stays_linear_where_the_image_is():
    """A ramp along both axes; the ends, where interpolation repeats the last sample, aside."""
    positions = told(12, 3.3)[0]
    rows, columns = torch.arange(9.0)[:, None], torch.arange(12.0)
    image = (0.3 * rows - 0.2 * columns)[None, None]
    ramp = (0.3 * rows - 0.2 * positions)[None, None]
    inner = (positions >= 1) & (positions <= 10)
    kept = keep_linear(ramp + torch.randn(ramp.shape), image, positions)
    torch.testing.assert_close(kept[..., inner], ramp[..., inner])


def test_detail_has_the_room_that_the_slopes_leave():
    """A bright pixel of height 1: slopes from -1 to 1 along each axis, so 2 + 2 within two pixels of them."""
    image = torch.zeros(1, 1, 11, 11)
    image[0, 0, 5, 5] = 1
    positions = torch.arange(11.0)  # K = 1: interpolation gives the image itself
    far = keep_linear(image + 9, image, positions) - image
    below = image - keep_linear(image - 9, image, positions)
    torch.testing.assert_close(far, below)
    torch.testing.assert_close(far[0, 0, 3:7, 3:7], torch.full((4, 4), 4.0))
    assert far[0, 0, :2].max() == 0
    assert far[0, 0, 8:].max() == 0
    small = 0.5 * torch.rand(4, 4) - 0.25
    pred = image.clone()
    pred[0, 0, 3:7, 3:7] += small
    assert torch.equal(keep_linear(pred, image, positions)[0, 0, 3:7, 3:7], pred[0, 0, 3:7, 3:7])


def test_a_single_slice_is_no_slope():
    image, positions = torch.rand(2, 1, 6, 1), told(1, 4)[0]
    pred = image.expand(2, 1, 6, 4)
    assert torch.equal(keep_linear(pred, image, positions), pred)
