# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.networks.interpolation import interpolate_cubic
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
