# SPDX-License-Identifier: Apache-2.0
"""Voxels that hold no measurement take no part, and come back; a magnitude image never falls below its minimum."""

import numpy as np
import pytest
import scipy.optimize
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.transforms.consistency import DataConsistency, DataConsistencyd, scan_operator
from scripts.transforms.envelope import scan_facts
from scripts.transforms.grid import ChooseGridd
from scripts.transforms.intensity import RestoreMRd, ScaleMRd
from scripts.transforms.load import as_meta_tensor
from scripts.transforms.orient import OrientThickAxisLast, PlaceOnGrid, PlaceOnGridd, padding_of
from scripts.volume import Volume

from tests.conftest import make_affine, smooth_volume

FACTORS = [4, 2.5]


def prepared(array, padding=None, factor=4.0, dtype="int16", padding_value=-32768.0, **orientation):
    """A scan as the network sees it, oriented and scaled, its grid chosen."""
    if padding is not None:
        array = np.where(padding, array[~padding].min(), array)
    volume = Volume(
        array.astype(np.float32), make_affine([1, 1, 4], **orientation), np.dtype(dtype), 4.0,
        padding, None if padding is None else padding_value,
    )  # fmt: skip
    data = {"image": OrientThickAxisLast()(as_meta_tensor(volume, "x"))}
    data = ChooseGridd("image", None, factor, 8)(data)
    return ScaleMRd("image", 0.5, 99.5)(data)


def outside_of(shape):
    """Outside a round field of view that is narrower in the last slices."""
    i, j, k = np.indices(shape)
    radius = np.where(k < shape[2] - 2, shape[0] * 0.45, shape[0] * 0.3)
    return (i - shape[0] / 2) ** 2 + (j - shape[1] / 2) ** 2 > radius**2


ARRAY = np.rint(smooth_volume((32, 30, 8)) + 20)
OUTSIDE = outside_of(ARRAY.shape)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1)])
def test_the_mask_turns_with_the_image(flip):
    marked = np.where(OUTSIDE, 0, ARRAY)
    data = prepared(marked, OUTSIDE, flip=flip)
    lowest = data["image"].as_tensor()[0] == float(data["image"].min())
    assert bool((lowest | ~padding_of(data["image"])).all())
    assert int(padding_of(data["image"]).sum()) == OUTSIDE.sum()


def test_scaling_and_envelope_look_at_what_was_measured():
    """The range is that of the same scan without the padded voxels, and no part of the padded ones is air."""
    image = prepared(ARRAY, OUTSIDE)["image"]
    measured = ARRAY[~OUTSIDE]
    low, high = np.percentile(measured, (0.5, 99.5), method="nearest")
    assert image.meta["intensity_low"] == pytest.approx(low, abs=float(np.ptp(measured)) / 200)
    assert image.meta["intensity_high"] == pytest.approx(high, abs=float(np.ptp(measured)) / 200)
    unit = (measured - image.meta["intensity_low"]) / (image.meta["intensity_high"] - image.meta["intensity_low"])
    assert scan_facts(image)["tissue_fraction"] == pytest.approx((2 * unit - 1 > -0.9).mean(), abs=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("mode", ["exact", "regularised"])
def test_consistency_takes_padded_voxels_for_whatever_the_result_says(mode, factor):
    """Beside a padded voxel the measured ones are explained as well as anywhere; the padded ones change nothing."""
    data = prepared(ARRAY, OUTSIDE, factor)
    image = data["image"]
    operator = scan_operator(image, "box", None)
    torch.manual_seed(0)
    pred = torch.randn(1, *image.shape[1:3], operator.grid.n_thin) * 0.05 + 0.5
    wholly_padded = padding_of(image).all(dim=-1)
    before = pred.clone()
    after, residual, _ = DataConsistency(mode, "box")(pred, image)
    told = operator.degrade(after)[0]
    measured = ~padding_of(image)
    assert float((told - image.as_tensor()[0])[measured].abs().max()) < (2e-3 if mode == "exact" else 0.1)
    assert residual < 1e-3
    torch.testing.assert_close(after[0][wholly_padded], before[0][wholly_padded], atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", FACTORS)
def test_padding_comes_back_where_the_nearest_slice_has_it(factor):
    data = prepared(ARRAY, OUTSIDE, factor, permute=(2, 0, 1))
    image = data["image"]
    grid = SliceGrid.over_slab(8, factor)
    data["pred"] = torch.full((1, *image.shape[1:3], grid.n_thin), 0.3)
    data["spread"] = torch.ones_like(data["pred"])
    data = RestoreMRd(["pred", "image"], map_keys="spread")(data)
    placed = PlaceOnGridd("pred", map_keys="spread")(data)
    nearest = np.abs(grid.slice_coordinates[None] - np.arange(grid.n_thin)[:, None]).argmin(axis=1)
    expected = OUTSIDE[:, :, nearest]
    got = placed["pred"].numpy()[0]
    assert placed["pred"].dtype == torch.int16
    np.testing.assert_array_equal(got == -32768, expected)
    assert got[~expected].min() > 0
    assert (placed["spread"].numpy()[0][expected] == 0).all()
    assert (placed["spread"].numpy()[0][~expected] > 0).all()


@pytest.mark.parametrize(("profile", "factor", "thickness"), [("box", 4, 1), ("box", 2.5, 1), ("box", 4, 0.8)])
def test_both_can_be_had_the_floor_and_the_slices(profile, factor, thickness):
    """Slices that do not overlap: nothing below the floor, and the slices are explained as before."""
    operator = SliceProfileOperator(SliceGrid.over_slab(12, factor), profile, thickness)
    torch.manual_seed(0)
    truth = (torch.rand(40, 40, operator.grid.n_thin) * 2 - 1.3).clamp(min=-1)  # a third at the floor
    slices = operator.degrade(truth)
    result = operator.enforce(truth + 0.2 * torch.randn_like(truth), slices)
    undershoots = int((result < -1 - 1e-3).sum())
    assert undershoots > result.numel() / 20
    raised = operator.raise_to(result, -1.0, 1e-3)
    assert raised == undershoots
    assert float(result.min()) >= -1
    assert float((operator.degrade(result) - slices).abs().max()) < 2e-3


@pytest.mark.parametrize(("factor", "thickness"), [(4, 2), (2.5, 2), (3, 3)])
def test_slices_that_overlap_are_explained_as_well_as_any_volume_above_the_floor_can(factor, thickness):
    """Slices of any content; the best there is, by an algorithm of another kind (Lawson and Hanson's active set)."""
    operator = SliceProfileOperator(SliceGrid.over_slab(10, factor), "box", thickness)
    torch.manual_seed(0)
    slices = torch.rand(60, 10, dtype=torch.float64)
    result = operator.enforce(operator.adjoint(slices), slices)
    told = operator.degrade(result).clamp(min=0)
    least = sum(scipy.optimize.nnls(operator.matrix, line.numpy())[1] ** 2 for line in told)
    assert least > 0.01  # else there is nothing to show
    operator.raise_to(result, 0.0, 1e-3)
    assert float(result.min()) >= 0
    assert float((operator.degrade(result) - told).square().sum()) < 1.05 * least


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_a_magnitude_image_never_falls_below_its_minimum(dtype):
    """Edges as sharp as they come, a result full of undershoots; dtype and consistency stay."""
    rng = np.random.default_rng(0)
    array = np.where(rng.random((24, 24, 8)) > 0.5, 1000, 20).astype(np.float32)
    data = prepared(array, dtype=dtype)
    image = data["image"]
    operator = scan_operator(image, "box", None)
    torch.manual_seed(0)
    data["pred"] = operator.adjoint(image.as_tensor()) * 4 + torch.randn(1, 24, 24, 32) * 0.3
    data = DataConsistencyd("pred", mode="exact", profile="box")(data)
    assert data["image"].meta["raised_voxels"] > 500
    assert data["image"].meta["data_consistency_residual"] < 1e-3
    data = RestoreMRd(["pred", "image"])(data)
    placed = PlaceOnGrid()(data["pred"], data["image"])
    assert placed.dtype == getattr(torch, dtype)
    assert float(placed.as_tensor().float().min()) >= 20
    thick = operator.degrade(placed.as_tensor().float())
    assert float((thick - torch.from_numpy(array)[None]).abs().max()) < 2.0


def test_a_scan_with_negative_values_has_no_floor():
    data = prepared(ARRAY - 500)
    data["pred"] = torch.full((1, *data["image"].shape[1:3], 32), -3.0)
    data = DataConsistencyd("pred", mode="off", profile="box")(data)
    assert data["image"].meta["raised_voxels"] == 0
    assert float(data["pred"].min()) == -3
