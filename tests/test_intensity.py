# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scripts.intensity import ct_to_unit, mr_intensity_range


def test_percentiles_match_numpy():
    volume = torch.from_numpy(np.random.default_rng(0).gamma(2, 100, size=(40, 50, 30)).astype(np.float32))
    found = mr_intensity_range(volume, 0.5, 99.5)
    low, high = np.percentile(volume.numpy(), [0.5, 99.5])
    assert found.low == pytest.approx(low, rel=1e-2)
    assert found.high == pytest.approx(high, rel=1e-3)
    scaled = found.to_unit(volume)
    assert scaled.max() > 1  # nothing is clipped
    torch.testing.assert_close(found.from_unit_(scaled), volume, atol=1e-2, rtol=1e-5)


def test_subsampled_percentiles_of_a_large_volume():
    volume = torch.rand(3 * 2**22)
    found = mr_intensity_range(volume, 1, 99)
    assert (found.low, found.high) == (pytest.approx(0.01, abs=1e-3), pytest.approx(0.99, abs=1e-3))


def test_one_bright_voxel_still_has_a_range():
    volume = torch.zeros(1000)
    volume[7] = 5.0
    found = mr_intensity_range(volume, 0.5, 99.5)
    assert (found.low, found.high) == (0.0, 5.0)


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "finite"), (float("inf"), "finite")])
def test_nonfinite_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        mr_intensity_range(torch.tensor([1.0, value, 2.0]), 0, 100)


def test_constant_is_refused():
    with pytest.raises(ValueError, match="must vary"):
        mr_intensity_range(torch.full((10,), 3.0), 0.5, 99.5)


def test_ct_window_by_hand():
    volume = torch.tensor([-3024.0, -2000.0, -1000.0, -500.0, 0.0, 500.0, 1000.0, 3000.0])
    expected = torch.tensor([-1.0, -1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0])
    torch.testing.assert_close(ct_to_unit(volume, (-1000, 1000), -1500), expected)
    # padding is air, not the low end of a narrow window's neighbour
    torch.testing.assert_close(ct_to_unit(volume[:2], (-1200, 800), -1500), torch.full((2,), -0.8))
    with pytest.raises(ValueError, match="low < high"):
        ct_to_unit(volume, (100, 100), -1500)
