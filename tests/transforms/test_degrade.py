# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.transforms.degrade import DegradeVolume, DescribeThickd, RandDegrade, RandDegraded, thicken

from tests.conftest import make_affine


@pytest.mark.parametrize("scale_factor", [4, 2.5])
def test_a_pair_is_the_middle_of_a_whole_volume_made_thick(scale_factor):
    """As if the patch had been cut from a whole volume: its border is hidden, slices lie where the positions say."""
    margin, columns = 20, 40
    transform = RandDegrade({"gaussian": 1.0}, (1.2, 1.2), margin)
    transform.set_random_state(0)
    whole = torch.rand(1, 3, 300, dtype=torch.float64)
    lr, label, positions, condition = transform(whole[..., 100 - margin : 140 + margin], scale_factor, 0.7)
    assert torch.equal(label, whole[..., 100:140])
    n_slices = int(np.ceil(columns / scale_factor))
    assert (lr.shape, positions.shape) == ((1, 3, n_slices), (columns,))
    # thick slice k sits at position k, so thin slice j of the window lies at positions[j]
    centres = 100 + np.interp(np.arange(n_slices), positions.numpy(), np.arange(columns), left=np.nan, right=np.nan)
    sigma = 1.2 * scale_factor / 2.3548200450309493
    for k in np.flatnonzero(np.isfinite(centres)):
        offset = np.arange(300) - centres[k]
        weights = np.exp(-(offset**2) / (2 * sigma**2)) * (np.abs(offset) <= 3 * sigma)
        expected = whole.numpy() @ (weights / weights.sum())
        np.testing.assert_allclose(lr[..., k].numpy(), expected, atol=5e-3)
    np.testing.assert_allclose(np.diff(positions.numpy()), 1 / scale_factor, atol=1e-5)
    assert positions.numpy().mean() == pytest.approx((n_slices - 1) / 2, abs=1e-5)  # centred on the window
    expected = (1 / scale_factor, 1.2, 1.2 / 2.3548, 0.7 / scale_factor)
    np.testing.assert_allclose(condition.numpy(), expected, rtol=1e-4)


def test_profiles_and_widths_are_drawn_as_asked():
    transform = RandDegraded(
        "image", profiles={"box": 1, "decimation": 3}, thickness_to_spacing=(0.7, 2.0), margin=8
    )  # fmt: skip
    data = {"image": torch.rand(1, 2, 32), "scale_factor": 4.0, "spacing_mm": (1.0, 0.8)}
    widths = []
    for seed in range(400):
        transform.set_random_state(seed)
        result = transform(data)
        assert torch.equal(result["label"], data["image"][..., 8:24])
        assert result["condition"][3] == pytest.approx(1.0 / 0.8 / 4)
        widths.append(float(result["condition"][1]))
    widths = np.array(widths)
    assert 270 < (widths == 0).sum() < 330  # decimation has no width: 3/4 of 400
    drawn = widths[widths > 0]
    assert drawn.min() >= 0.7
    assert drawn.max() <= 2.0
    assert ((drawn > 0.85) & (drawn < 1.15)).mean() > 0.3  # a triangle with its tip at 1; a uniform draw has 0.23


def test_half_of_the_thick_slices_get_noise_of_their_own():
    """The target gets none, and what the network is told does not change."""
    clean, noisy = (RandDegrade({"box": 1.0}, (1.0, 1.0), 8, noise_std=noise_std) for noise_std in (0.0, 0.1))
    patch = torch.rand(1, 32, 48)
    deviations = []
    for seed in range(300):
        results = [transform.set_random_state(seed)(patch, 2.0, 1.0) for transform in (clean, noisy)]
        assert all(torch.equal(a, b) for a, b in zip(results[0][1:], results[1][1:], strict=True))
        assert results[1][0].dtype == torch.float32
        noise = results[1][0] - results[0][0]
        deviations.append(float(noise.std()))
        assert abs(float(noise.mean())) < 5 * 0.1 / noise.numel() ** 0.5
    deviations = np.array(deviations)
    added = deviations > 0
    assert 120 < added.sum() < 180
    assert deviations.max() < 0.11
    assert deviations[added].mean() == pytest.approx(0.05, abs=0.01)  # drawn uniformly up to it


def test_acquired_patches_are_described_by_what_the_scan_states():
    data = {"image": torch.rand(1, 8, 5), "scale_factor": 2.5, "spacing_mm": (1.0, 4.0), "thickness_to_spacing": 0.8}
    result = DescribeThickd("image", columns=12, profile="box")(data)
    assert torch.equal(result["image"], data["image"])
    np.testing.assert_allclose(result["positions"], (np.arange(12) - 5.5) / 2.5 + 2, atol=1e-6)
    np.testing.assert_allclose(result["condition"], [0.4, 0.8, 0.8 / np.sqrt(12), 0.25], rtol=1e-5)


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


def test_a_real_factor_keeps_thick_and_thin_on_one_slab():
    """Thirteen slices at K = 2.5: five thick ones over all thirteen; the fourteenth is cut off."""
    affine = make_affine([1.0, 1.0, 0.8])
    image = MetaTensor(torch.rand(1, 9, 9, 14), meta={"original_affine": affine})
    thick, thin = DegradeVolume(2.5, "axial", "box", 0.5)(image)
    assert (thick.shape, thin.shape) == ((1, 9, 9, 5), (1, 9, 9, 13))
    np.testing.assert_allclose(thick.affine.numpy()[:3, 2], [0, 0, 2.0])
    # the first thick slice sits at thin coordinate 1: 6 - 2 * 2.5
    np.testing.assert_allclose(thick.affine.numpy()[:3, 3], affine[:3, 3] + [0, 0, 0.8], atol=1e-9)
    assert thick.meta["slice_thickness_mm"] == pytest.approx(1.0)
    torch.testing.assert_close(thick[..., 0].as_tensor(), image[..., :3].as_tensor() @ torch.tensor([0.1, 0.8, 0.1]))


def test_a_factor_of_one_is_refused():
    with pytest.raises(ValueError, match="must be > 1, got 1"):
        DegradeVolume(1, "axial")
