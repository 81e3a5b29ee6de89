# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.geometry import SliceGrid
from scripts.reasons import CaseError, Reason
from scripts.transforms.load import as_meta_tensor
from scripts.transforms.orient import (
    OrientThickAxisLast,
    PlaceOnGrid,
    PlaceOnGridd,
    slice_grid,
    thickness_to_spacing,
    working_spacing_mm,
)
from scripts.volume import Volume

from tests.conftest import make_affine

CASES = [
    ([1.0, 1.1, 4.0], (12, 10, 6), {}),
    ([4.0, 0.9, 1.1], (6, 12, 10), {"permute": (2, 0, 1), "flip": (-1, 1, -1)}),
    ([0.8, 5.0, 1.2], (12, 6, 10), {"rotate": (25, -14, 8), "flip": (1, -1, 1)}),
]


def scan(spacing, shape, orientation, dtype="int16"):
    array = np.random.default_rng(0).integers(0, 1000, shape).astype(np.float32)
    return as_meta_tensor(Volume(array, make_affine(spacing, **orientation), np.dtype(dtype)), "case")


def chosen(image, scale_factor=4):
    """The oriented scan with its K, as the preprocessing leaves it."""
    oriented = OrientThickAxisLast()(image)
    oriented.meta["scale_factor"] = scale_factor
    return oriented


@pytest.mark.parametrize(("spacing", "shape", "orientation"), CASES)
def test_way_in_and_out_gives_k_times_the_slices_on_the_right_grid(spacing, shape, orientation):
    image = scan(spacing, shape, orientation)
    oriented = chosen(image)
    assert oriented.shape[-1] == 6
    assert working_spacing_mm(oriented)[2] == pytest.approx(max(spacing))
    pred = oriented.as_tensor().repeat_interleave(4, dim=-1)
    placed = PlaceOnGrid()(pred, oriented)
    thick = int(np.argmax(spacing))
    assert placed.dtype == torch.int16
    torch.testing.assert_close(
        placed.as_tensor(), image.as_tensor().repeat_interleave(4, dim=1 + thick).to(torch.int16)
    )
    expected = SliceGrid.over_slab(6, 4).thin_affine(make_affine(spacing, **orientation), thick)
    np.testing.assert_allclose(placed.affine.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(placed.meta["original_affine"], expected, atol=1e-9)
    assert tuple(placed.meta["spatial_shape"]) == placed.shape[1:]


@pytest.mark.parametrize(
    ("shape", "spacing", "reason"),
    [
        ((10, 10, 2), [1, 1, 4], Reason.TOO_SMALL),
        ((5, 10, 9), [1, 1, 4], Reason.TOO_SMALL),
        ((9, 9, 9), [1, 1, 1], Reason.ISOTROPIC),
    ],
)
def test_what_cannot_be_super_resolved_is_refused(shape, spacing, reason):
    with pytest.raises(CaseError) as caught:
        OrientThickAxisLast()(scan(spacing, shape, {}))
    assert caught.value.reason == reason


def test_clipped_values_are_counted_never_wrapped(caplog):
    oriented = chosen(scan([1, 1, 4], (10, 10, 5), {}, dtype="int16"))
    pred = torch.full((1, 10, 10, 20), 7.4)
    pred[0, 0, 0, :3] = torch.tensor([-40000.0, 70000.0, -0.7])
    placed = PlaceOnGrid()(pred, oriented)
    assert placed.meta["clipped_voxels"] == 2
    assert "2 voxels were clipped" in caplog.text
    assert placed[0, 0, 0, :4].tolist() == [-32768, 32767, -1, 7]


def test_a_range_of_few_levels_is_not_rounded():
    image = scan([1, 1, 4], (10, 10, 5), {}, dtype="uint8")
    image = MetaTensor(image.as_tensor() * 0.25, meta=image.meta)  # 0 to 250
    oriented = chosen(image)
    pred = torch.rand(1, 10, 10, 20)
    placed = PlaceOnGrid()(pred.clone(), oriented)
    assert placed.dtype == torch.float32
    torch.testing.assert_close(placed.as_tensor(), pred)


def test_hosts_find_the_new_grid_in_the_images_meta_data():
    """MONAI Label resizes to image.meta['spatial_shape'] and writes image.meta['original_affine']."""
    oriented = chosen(scan([1, 1, 4], (10, 11, 5), {}))
    data = {"image": oriented, "pred": torch.rand(1, 10, 11, 20), "spread": torch.rand(1, 10, 11, 20)}
    result = PlaceOnGridd("pred", map_keys="spread")(data)
    for key in ("affine", "original_affine"):
        np.testing.assert_allclose(result["image"].meta[key], result["pred"].meta[key])
    assert tuple(result["image"].meta["spatial_shape"]) == (10, 11, 20)
    assert result["spread"].dtype == torch.float32


@pytest.mark.parametrize(("spacing", "shape", "orientation"), CASES)
def test_a_real_factor_gives_its_grid(spacing, shape, orientation):
    """Six slices at K = 2.75 are 16.5: seventeen thin ones, whose first centre lies 8 thin steps before the middle."""
    oriented = chosen(scan(spacing, shape, orientation), 2.75)
    assert (slice_grid(oriented).n_slices, slice_grid(oriented).n_thin) == (6, 17)
    placed = PlaceOnGrid()(torch.rand(*oriented.shape[:3], 17), oriented)
    thick, affine = int(np.argmax(spacing)), make_affine(spacing, **orientation)
    assert placed.shape[1 + thick] == 17
    step = affine[:3, thick]
    np.testing.assert_allclose(placed.affine.numpy()[:3, thick], step / 2.75, atol=1e-9)
    middle = affine[:3, 3] + 2.5 * step
    np.testing.assert_allclose(placed.affine.numpy()[:3, 3], middle - 8 * step / 2.75, atol=1e-9)


@pytest.mark.parametrize(
    ("header", "override", "expected"), [(None, None, 1.0), (3.0, None, 0.75), (6.0, None, 1.5), (3.0, 2.0, 0.5)]
)
def test_thickness_is_the_headers_unless_overridden(header, override, expected):
    array = np.random.default_rng(0).integers(0, 1000, (10, 10, 5)).astype(np.float32)
    volume = Volume(array, make_affine([1, 1, 4.0]), np.dtype("int16"), header)
    assert thickness_to_spacing(OrientThickAxisLast()(as_meta_tensor(volume, "case")), override) == expected
