# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.transforms.patch import PLANES, RandPlanePatch, RandPlanePatchd


def index_volume(shape=(20, 24, 28)):
    """Voxel (i, j, k) holds 10000 i + 100 j + k."""
    i, j, k = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return (10000 * i + 100 * j + k)[None]


STEP = {0: 10000, 1: 100, 2: 1}


@pytest.mark.parametrize("planes", PLANES)
def test_unscaled_patch_is_a_crop_of_an_allowed_plane(planes):
    transform = RandPlanePatch(planes, size=(8, 12), min_std=0.0)
    transform.set_random_state(0)
    seen = set()
    for _ in range(60):
        patch, spacing = transform(index_volume(), (1.0, 1.0, 1.0))
        assert spacing.tolist() == [1.0, 1.0]
        assert patch.shape == (1, 8, 12)
        rows, columns = patch[0].diff(dim=0), patch[0].diff(dim=1)
        assert rows.unique().numel() == columns.unique().numel() == 1
        axis = {step: axis for axis, step in STEP.items()}
        seen.add((axis[int(rows[0, 0])], axis[int(columns[0, 0])]))
    assert seen == set(PLANES[planes])


def test_resampled_patch_has_the_asked_spacing():
    """On a linear image the difference between pixels is the spacing ratio."""
    transform = RandPlanePatch("in_plane", (8, 8), row_spacing_mm=(1.5, 1.5), column_spacing_mm=(1.0, 1.0), min_std=0)
    transform.set_random_state(1)
    for _ in range(10):
        patch, spacing = transform(index_volume((60, 60, 4)), (0.5, 0.5, 4.0))
        assert spacing.tolist() == [1.5, 1.0]
        patch = patch[0, 2:-2, 2:-2]
        steps = sorted([float(patch.diff(dim=0).mean()), float(patch.diff(dim=1).mean())])
        # rows advance by 3 voxels, columns by 2, along either axis
        assert steps == pytest.approx([200, 30000], rel=2e-2) or steps == pytest.approx([300, 20000], rel=2e-2)


def test_columns_are_never_finer_than_the_volume():
    transform = RandPlanePatch("in_plane", (8, 8), row_spacing_mm=(0.5, 0.5), column_spacing_mm=(0.4, 1.0), min_std=0)
    transform.set_random_state(0)
    patch = transform(index_volume((60, 60, 4)), (1.0, 1.0, 4.0))[0][0, 2:-2, 2:-2]
    rows, columns = float(patch.diff(dim=0).median()), float(patch.diff(dim=1).median())
    assert columns in (pytest.approx(100, rel=1e-3), pytest.approx(10000, rel=1e-3))  # whole voxels: not upsampled
    assert rows * columns == pytest.approx(100 * 10000 / 2, rel=0.2)  # half voxels: upsampled


def test_air_is_avoided():
    volume = torch.full((1, 200, 200, 4), -1.0)
    volume[:, 90:110, 90:110] = torch.rand(1, 20, 20, 4)
    transform = RandPlanePatch("in_plane", (32, 32), min_std=0.05, attempts=200)
    transform.set_random_state(0)
    assert all(float(transform(volume, (1, 1, 4))[0].std()) >= 0.05 for _ in range(10))


def test_a_volume_smaller_than_the_patch_is_mirrored():
    transform = RandPlanePatch("in_plane", (64, 48), min_std=0)
    transform.set_random_state(0)
    volume = torch.rand(1, 20, 24, 4)
    patch, _ = transform(volume, (1, 1, 4))
    assert patch.shape == (1, 64, 48)
    assert set(patch.unique().tolist()) <= set(volume.unique().tolist())


def test_thick_volumes_are_no_truth():
    transform = RandPlanePatch("any", (8, 8), row_spacing_mm=(1, 1), column_spacing_mm=(1, 1.5), min_std=0)
    transform.set_random_state(0)
    for _ in range(20):  # only the plane of the fine axes may be used
        patch = transform(index_volume(), (1.0, 1.0, 5.0))[0][0]
        assert all(float(patch.diff(dim=a).abs().mean()) > 90 for a in (0, 1))  # the thick axis would step by 1
    with pytest.raises(ValueError, match="must have a plane"):
        transform(index_volume(), (4.0, 1.0, 5.0))


def test_seed_decides_everything():
    transform = RandPlanePatchd("image", planes="any", size=(8, 8), row_spacing_mm=(0.7, 2), column_spacing_mm=(0.7, 2))
    item = {"image": torch.rand(1, 30, 30, 30), "spacing_mm": (1.0, 1.0, 1.0)}
    results = []
    for seed in (5, 5, 6):
        transform.set_random_state(seed)
        results.append(transform(item)["image"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_unknown_planes_are_refused():
    with pytest.raises(ValueError, match="planes must be one of"):
        RandPlanePatch("diagonal", (8, 8))


@pytest.mark.parametrize(("scale_factor", "columns"), [(4.0, 6), (2.5, 10), (8.0, 3), (1.5, 16)])
def test_a_window_of_thin_slices_is_covered_by_thick_ones(scale_factor, columns):
    """24 thin slices, counted by hand; the patch says its own spacing."""
    transform = RandPlanePatchd("image", planes="through_plane", size=(8, 24), min_std=0, of_window=True)
    transform.set_random_state(0)
    data = {"image": index_volume(), "spacing_mm": (0.9, 0.9, 4.5), "scale_factor": scale_factor}
    result = transform(data)
    assert result["image"].shape == (1, 8, columns)
    torch.testing.assert_close(result["spacing_mm"], torch.tensor([0.9, 4.5]))
    assert (result["image"].diff(dim=-1) == 1).all()  # the last axis is the thick one
