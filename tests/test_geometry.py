# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import Orientation, SliceGrid, find_thick_axis, swap_lps_ras, voxel_spacing_mm
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.transforms.consistency import DataConsistencyd
from scripts.transforms.grid import ChooseGridd
from scripts.transforms.load import as_meta_tensor
from scripts.transforms.orient import OrientThickAxisLastd, PlaceOnGridd
from scripts.volume import Volume

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
    affine_hr = make_affine([0.9, 1.3, 1.0], **ORIENTATIONS[orientation])
    shape = [5, 6, 7]
    shape[thick_axis] = 8 * scale_factor
    hr = torch.from_numpy(np.moveaxis(world_ramp(shape, affine_hr), thick_axis, -1))
    grid = SliceGrid.under_slab(8 * scale_factor, scale_factor)
    lr = SliceProfileOperator(grid, profile).degrade(hr).numpy()
    shape[thick_axis] = 8
    expected = np.moveaxis(world_ramp(shape, grid.thick_affine(affine_hr, thick_axis)), thick_axis, -1)
    np.testing.assert_allclose(lr[..., 2:-2], expected[..., 2:-2], atol=1e-9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("thick_axis", [0, 1, 2])
def test_thin_affine_covers_the_same_slab(orientation, thick_axis):
    spacing = [0.7, 0.8, 0.9]
    spacing[thick_axis] = 4.4
    n_slices, scale_factor = 11, 4
    affine = make_affine(spacing, **ORIENTATIONS[orientation])
    grid = SliceGrid.over_slab(n_slices, scale_factor)
    new = grid.thin_affine(affine, thick_axis)
    assert np.allclose(grid.thick_affine(new, thick_axis), affine, atol=1e-12)
    for end_lr, end_hr in ((-0.5, -0.5), (n_slices - 0.5, scale_factor * n_slices - 0.5)):
        point_lr, point_hr = np.array([3.0, 3, 3, 1]), np.array([3.0, 3, 3, 1])
        point_lr[thick_axis], point_hr[thick_axis] = end_lr, end_hr
        np.testing.assert_allclose(new @ point_hr, affine @ point_lr, atol=1e-9)
    step = affine[:3, thick_axis]
    np.testing.assert_allclose(new[:3, 3] - affine[:3, 3], -(scale_factor - 1) / (2 * scale_factor) * step, atol=1e-12)


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("n_slices", [1, 4, 11])
def test_a_whole_factor_puts_every_thick_slice_in_the_middle_of_its_thin_ones(scale_factor, n_slices):
    grid = SliceGrid.over_slab(n_slices, scale_factor)
    assert grid.n_thin == n_slices * scale_factor
    middles = np.arange(scale_factor * n_slices).reshape(n_slices, scale_factor).mean(axis=1)
    np.testing.assert_allclose(grid.slice_coordinates, middles, atol=1e-12)
    np.testing.assert_allclose(grid.slice_coordinates, np.arange(n_slices) * scale_factor + (scale_factor - 1) / 2)
    assert SliceGrid.under_slab(n_slices * scale_factor, scale_factor) == grid


def test_a_real_factor_by_hand():
    """Five slices of 5 mm are a slab of 25 mm: thirteen thin ones of 2 mm, half a millimetre over at both ends."""
    grid = SliceGrid.over_slab(5, 2.5)
    assert grid.n_thin == 13
    # thick centres at 2.5, 7.5, ... mm of the slab; thin ones at -0.5 + 1, 3, 5, ... mm
    np.testing.assert_allclose(grid.slice_coordinates, [1.0, 3.5, 6.0, 8.5, 11.0])
    np.testing.assert_allclose(grid.positions[:3], [-0.4, 0.0, 0.4])
    torch.testing.assert_close(grid.positions_tensor()[:3], torch.tensor([-0.4, 0.0, 0.4]))
    # one thin slice lies in the slab's edge beyond the first and the last thick centre, and takes theirs
    np.testing.assert_array_equal(grid.nearest_slices, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4])


RNG = np.random.default_rng(20)
STACKS = [
    {
        "spacing_mm": float(RNG.uniform(2, 8)),
        "target_mm": float(RNG.uniform(0.7, 1.3)),
        "thickness_to_spacing": float(RNG.uniform(0.5, 1.2)),
        "rotate": tuple(RNG.uniform(-40, 40, 3)),
        "permute": tuple(int(axis) for axis in RNG.permutation(3)),
        "flip": tuple(int(sign) for sign in RNG.choice([-1, 1], 3)),
        "n_slices": int(RNG.integers(24, 36)),
        "thick_axis": int(RNG.integers(3)),
    }
    for _ in range(20)
]


def stack_affine(stack):
    spacing = [0.6, 0.7, 0.8]
    spacing[stack["thick_axis"]] = stack["spacing_mm"]
    return make_affine(spacing, stack["rotate"], permute=stack["permute"], flip=stack["flip"])


@pytest.mark.parametrize("stack", STACKS, ids=range(20))
def test_outer_faces_of_a_real_factor_lie_within_half_a_thin_slice_and_alike_on_both_sides(stack):
    axis, n_slices, affine = stack["thick_axis"], stack["n_slices"], stack_affine(stack)
    grid = SliceGrid.over_slab(n_slices, stack["spacing_mm"] / stack["target_mm"])
    thin = grid.thin_affine(affine, axis)
    np.testing.assert_allclose(np.linalg.norm(thin[:3, axis]), stack["target_mm"], rtol=1e-12)
    normal = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    over = []
    for sign, last_thick, last_thin in ((-1, 0, 0), (1, n_slices - 1, grid.n_thin - 1)):
        faces = []
        for matrix, index in ((affine, last_thick), (thin, last_thin)):
            voxel = np.array([2.0, 2, 2, 1])
            voxel[axis] = index + 0.5 * sign
            faces.append((matrix @ voxel)[:3])
        # the two faces lie on one line along the normal
        np.testing.assert_allclose(np.cross(faces[1] - faces[0], normal), 0, atol=1e-9)
        over.append(sign * float((faces[1] - faces[0]) @ normal))
    assert over[0] == pytest.approx(over[1], abs=1e-9)
    assert abs(over[0]) <= stack["target_mm"] / 2 + 1e-9
    np.testing.assert_allclose(grid.thick_affine(thin, axis), affine, atol=1e-9)


def linear_network(image, positions, condition):
    """Linear interpolation at the positions that a network is told; torch's cubic kernel bends a ramp."""
    lines = image.reshape(-1, image.shape[-1]).numpy()
    found = np.stack([np.interp(positions.numpy(), np.arange(image.shape[-1]), line) for line in lines])
    return torch.from_numpy(found).float().reshape(*image.shape[:3], len(positions))


@pytest.mark.parametrize("stack", STACKS, ids=range(20))
@pytest.mark.parametrize("mode", ["off", "exact"])
def test_a_ramp_of_the_world_comes_back_as_itself(stack, mode):
    """Through the steps of inference.json: orient, choose the grid, super-resolve, be consistent, place."""
    axis, affine = stack["thick_axis"], stack_affine(stack)
    shape = [10, 11, 12]
    shape[axis] = stack["n_slices"]
    scan = Volume(world_ramp(shape, affine), affine, np.dtype(np.float32),
                  stack["spacing_mm"] * stack["thickness_to_spacing"])  # fmt: skip
    data = OrientThickAxisLastd("image", thick_axis=axis)({"image": as_meta_tensor(scan, "case")})
    data = ChooseGridd("image", stack["target_mm"], None, 20)(data)
    inferer = ThroughPlaneInferer("box", background=float("-inf"), progress=False)
    data["pred"] = inferer(data["image"][None], linear_network)[0]
    data = PlaceOnGridd("pred", output_dtype="float32")(DataConsistencyd("pred", mode=mode, profile="box")(data))
    result = data["pred"]
    truth = world_ramp(result.shape[1:], np.asarray(result.affine))
    ends = int(np.ceil(5 * stack["spacing_mm"] / stack["target_mm"]))
    inside = [slice(None)] * 3
    inside[axis] = slice(ends, -ends)
    error = np.abs(result[0].numpy() - truth)[tuple(inside)]
    assert error.size > 500
    assert error.max() < 1e-3 * np.ptp(truth)


@pytest.mark.parametrize("n_thin", [40, 41, 43, 97])
@pytest.mark.parametrize("scale_factor", [1.5, 2.5, 3.7, 4, 6.2])
def test_under_slab_takes_as_many_whole_slices_as_fit(n_thin, scale_factor):
    grid = SliceGrid.under_slab(n_thin, scale_factor)
    assert grid.n_thin <= n_thin
    assert grid == SliceGrid.over_slab(grid.n_slices, scale_factor)
    assert (grid.n_slices + 1) * scale_factor > n_thin - 0.5  # one more would not fit


def test_covering_a_window():
    grid = SliceGrid.covering(10, 4)  # 3 slices over 12 thin places, the middle one in the window's middle
    assert (grid.n_slices, grid.n_thin) == (3, 10)
    np.testing.assert_allclose(grid.slice_coordinates, [0.5, 4.5, 8.5])
    wide = grid.widened(6)
    np.testing.assert_allclose(wide.slice_coordinates, [6.5, 10.5, 14.5])
    assert wide.n_thin == 22


@pytest.mark.parametrize("scale_factor", [1.7, 2.5, 4, 7.3])
def test_a_grid_is_found_from_its_positions(scale_factor):
    grid = SliceGrid.over_slab(9, scale_factor)
    found = SliceGrid.of_positions(9, torch.tensor(grid.positions, dtype=torch.float32).tolist())
    np.testing.assert_allclose(found.positions, grid.positions, atol=1e-4)
    assert (found.n_slices, found.n_thin) == (grid.n_slices, grid.n_thin)


def test_impossible_grids_are_refused():
    with pytest.raises(ValueError, match="must have slices"):
        SliceGrid.over_slab(0, 4)
    with pytest.raises(ValueError, match=r"at least 4 thin slices, got 3"):
        SliceGrid.under_slab(3, 4)


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
