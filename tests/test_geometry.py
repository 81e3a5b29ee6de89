# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import (
    Orientation,
    find_thick_axis,
    hr_slice_coordinate,
    super_resolution_affine,
    swap_lps_ras,
    thick_slice_affine,
    voxel_spacing_mm,
)

from tests.conftest import make_affine, world_ramp

ORIENTATIONS = {
    "axial": {},
    "sagittal": {"permute": (1, 2, 0), "flip": (-1, -1, 1)},
    "coronal": {"permute": (0, 2, 1), "flip": (1, -1, -1)},
    "oblique": {"rotate": (17, -9, 31), "permute": (2, 0, 1), "flip": (-1, 1, -1)},
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("thick_axis", [0, 1, 2])
@pytest.mark.parametrize("scale_factor", [2, 3, 4, 5])
@pytest.mark.parametrize("profile", ["gaussian", "box", "decimation"])
def test_degraded_ramp_is_the_ramp_at_the_lr_positions(orientation, thick_axis, scale_factor, profile):
    """Every profile is symmetric, so away from the ends D must reproduce a linear function of the world exactly."""
    spacing = [0.9, 1.3, 1.0]
    affine_hr = make_affine(spacing, **ORIENTATIONS[orientation])
    shape = [5, 6, 7]
    shape[thick_axis] = 8 * scale_factor
    hr = torch.from_numpy(np.moveaxis(world_ramp(shape, affine_hr), thick_axis, -1))
    lr = SliceProfileOperator(scale_factor, profile).degrade(hr).numpy()
    affine_lr = thick_slice_affine(affine_hr, thick_axis, scale_factor)
    expected = np.moveaxis(
        world_ramp([n // scale_factor if a == thick_axis else n for a, n in enumerate(shape)], affine_lr),
        thick_axis,
        -1,
    )
    np.testing.assert_allclose(lr[..., 2:-2], expected[..., 2:-2], atol=1e-9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("thick_axis", [0, 1, 2])
def test_sr_affine_covers_the_same_slab(orientation, thick_axis):
    spacing = [0.7, 0.8, 0.9]
    spacing[thick_axis] = 4.4
    n_slices, scale_factor = 11, 4
    affine = make_affine(spacing, **ORIENTATIONS[orientation])
    new = super_resolution_affine(affine, thick_axis, scale_factor)
    assert np.allclose(thick_slice_affine(new, thick_axis, scale_factor), affine, atol=1e-12)
    for end_lr, end_hr in ((-0.5, -0.5), (n_slices - 0.5, scale_factor * n_slices - 0.5)):
        point_lr, point_hr = np.array([3.0, 3, 3, 1]), np.array([3.0, 3, 3, 1])
        point_lr[thick_axis], point_hr[thick_axis] = end_lr, end_hr
        np.testing.assert_allclose(new @ point_hr, affine @ point_lr, atol=1e-9)
    step = affine[:3, thick_axis]
    np.testing.assert_allclose(new[:3, 3] - affine[:3, 3], -(scale_factor - 1) / (2 * scale_factor) * step, atol=1e-12)


def test_hr_slice_coordinate_by_hand():
    assert hr_slice_coordinate(0, 4) == 1.5  # voxels 0..3: the middle lies between 1 and 2
    assert hr_slice_coordinate(2, 4) == 9.5
    assert hr_slice_coordinate(1, 3) == 4  # voxels 3..5


def test_thick_axis_is_found_in_any_storage_order():
    assert find_thick_axis(make_affine([1, 1, 4])) == 2
    assert find_thick_axis(make_affine([4.8, 1.02, 1.0], permute=(2, 0, 1), rotate=(20, 5, 0))) == 0


@pytest.mark.parametrize("spacing", [[1, 1, 1], [1, 1, 1.4], [1, 4, 4], [0.5, 3, 4]])
def test_ambiguous_thick_axis_is_refused(spacing):
    with pytest.raises(ValueError, match="slice spacing must be at least"):
        find_thick_axis(make_affine(spacing))


def test_named_thick_axis():
    affine = make_affine([1, 4, 4], permute=(2, 0, 1))  # voxel axes run along z, x, y
    assert find_thick_axis(affine, "axial") == 0
    assert find_thick_axis(affine, "sagittal") == 1
    assert find_thick_axis(affine, "coronal") == 2
    assert find_thick_axis(affine, 1) == 1
    assert find_thick_axis(affine, "2") == 2
    with pytest.raises(ValueError, match="thick_axis must be"):
        find_thick_axis(affine, "up")


@pytest.mark.parametrize(
    "affine", [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 0, 1, 1]), np.diag([1, 1, np.inf, 1])]
)
def test_unusable_affine_is_refused(affine):
    with pytest.raises(ValueError, match="must be"):
        voxel_spacing_mm(affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_does_not_depend_on_storage(orientation):
    """The same scan stored with flipped and permuted axes has the same working array."""
    affine = make_affine([1.0, 1.1, 4.0], **ORIENTATIONS[orientation])
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 5, 6, 7)))
    reference = Orientation.of(affine, 2).apply(volume)
    for permutation in [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)]:
        for flips in [(), (0,), (1, 2), (0, 1, 2)]:
            stored = volume.permute(0, *(1 + p for p in permutation)).flip([1 + f for f in flips])
            storage = np.zeros((4, 4))
            storage[3, 3] = 1
            for new_axis, old_axis in enumerate(permutation):
                reverse = new_axis in flips
                storage[old_axis, new_axis] = -1 if reverse else 1
                storage[old_axis, 3] = volume.shape[1 + old_axis] - 1 if reverse else 0
            stored_affine = affine @ storage
            found = Orientation.of(stored_affine, permutation.index(2))
            assert torch.equal(found.apply(stored), reference)
            assert torch.equal(found.undo(found.apply(stored)), stored)


def test_lps_and_ras_differ_in_the_first_two_world_axes():
    affine = make_affine([1.0, 2.0, 3.0], rotate=(4, 5, 6), origin=(-40.0, 25.0, 13.0))
    x, y, z, _ = affine @ [1, 2, 3, 1]
    np.testing.assert_allclose(swap_lps_ras(affine) @ [1, 2, 3, 1], [-x, -y, z, 1])
    np.testing.assert_array_equal(swap_lps_ras(swap_lps_ras(affine)), affine)
