# SPDX-License-Identifier: Apache-2.0
"""Fusion of stacks, on a made-up volume that three stacks show, each thick along another axis."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scripts.degradation import SliceProfileOperator
from scripts.fusion.registration import register_rigid
from scripts.fusion.resampling import Interpolated, grid_voxels
from scripts.fusion.stacks import Stack, fuse_stacks
from scripts.geometry import SliceGrid
from scripts.networks.interpolation import interpolate_cubic
from scripts.reasons import CaseError

from tests.conftest import make_affine, rotation

SIDE, FACTOR = 32, 4
CORNERS = np.array([[x, y, z, 1] for x in (-12, 12) for y in (-12, 12) for z in (-12, 12)]).T
AFFINE = make_affine([1, 1, 1], origin=(-SIDE / 2,) * 3)


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    volume = gaussian_filter(rng.standard_normal((SIDE,) * 3), 1.2)
    ball = np.linalg.norm(grid_voxels((SIDE,) * 3) - (SIDE - 1) / 2, axis=0) < 0.42 * SIDE
    return (gaussian_filter(1.0 * ball, 1) * (500 + 150 * volume / volume.std())).astype(np.float32)


def acquired(truth, axis, degrees=(0, 0, 0), shift_mm=(0, 0, 0), gain=1.0, name="stack"):
    """A stack of the patient, who has moved by so much, as cubic interpolation super-resolves it."""
    movement = np.eye(4)
    movement[:3, :3], movement[:3, 3] = rotation(degrees), shift_mm
    thin, _ = Interpolated(truth, AFFINE).at(grid_voxels(truth.shape), movement @ AFFINE)
    grid = SliceGrid.over_slab(SIDE // FACTOR, FACTOR)
    operator = SliceProfileOperator(grid, "box")
    thick = operator.degrade(torch.from_numpy(np.ascontiguousarray(np.moveaxis(gain * thin, axis, -1))))
    result = interpolate_cubic(thick, torch.tensor(grid.positions, dtype=torch.float32))
    result = operator.enforce(result, thick)
    arrays = (np.moveaxis(v.numpy(), -1, axis) for v in (thick, result))
    first, second = arrays
    stack = Stack(name, first, grid.thick_affine(AFFINE, axis), second, AFFINE, axis, operator, 0.0)
    return stack, movement


def error_db(volume, truth):
    inner = (slice(6, -6),) * 3
    return -10 * np.log10(np.mean((volume[inner] - truth[inner]) ** 2) / np.ptp(truth) ** 2)


def test_three_stacks_beat_the_best_of_them_by_far(truth):
    stacks = [acquired(truth, axis, name=f"s{axis}")[0] for axis in (2, 1, 0)]
    single = max(error_db(stack.thin, truth) for stack in stacks)
    fused = fuse_stacks(stacks, 10, 0.1, 30, 0.5, register=False)
    assert error_db(fused.volume, truth) > single + 4
    for stack, unexplained in zip(stacks, fused.residuals[-1], strict=True):
        # what is left unexplained, computed apart: the box is the mean of four
        shape = list(truth.shape)
        shape[stack.thick_axis : stack.thick_axis + 1] = [SIDE // FACTOR, FACTOR]
        again = fused.volume.reshape(shape).mean(stack.thick_axis + 1)
        rms = np.sqrt(np.mean((again - stack.thick) ** 2)) / np.ptp(stacks[0].thick)
        assert unexplained == pytest.approx(rms, abs=2e-3)  # the gain is fitted, and values below 0 are raised
        assert unexplained < 0.006 < fused.residuals[0][0]


@pytest.mark.slow
def test_movement_and_gain_are_found_and_undone(truth):
    acquisitions = [
        acquired(truth, 2, name="a"),
        acquired(truth, 1, (2, -1, 1.5), (0.7, -1.1, 0.4), 1.3, "b"),
        acquired(truth, 0, (-1, 2, 0.5), (-0.5, 0.6, 1.2), 0.8, "c"),
    ]
    moved = [stack for stack, _ in acquisitions]
    fused = fuse_stacks(moved, 10, 0.1, 30, 0.5)
    for found, (_, movement) in zip(fused.registrations, acquisitions[1:], strict=True):
        assert found.similarity > max(found.similarity_before, 0.97)
        np.testing.assert_allclose(found.matrix @ CORNERS, movement @ CORNERS, atol=0.7)
    assert [middle for _, middle, _ in fused.gains] == pytest.approx([1, 1 / 1.3, 1 / 0.8], rel=0.05)
    single = error_db(moved[0].thin, truth)
    assert error_db(fused.volume, truth) > single + 8
    assert (
        error_db(fused.volume, truth) > error_db(fuse_stacks(moved, 10, 0.1, 30, 0.5, register=False).volume, truth) + 2
    )


def spoilt(stack, change):
    """A stack whose slices are changed, and its own result with them."""
    thick = change(stack.thick).astype(np.float32)
    lines = torch.from_numpy(np.ascontiguousarray(np.moveaxis(thick, stack.thick_axis, -1)))
    thin = interpolate_cubic(lines, torch.tensor(stack.operator.grid.positions, dtype=torch.float32))
    thin = stack.operator.enforce(thin, lines)
    return replace(stack, thick=thick, thin=np.moveaxis(thin.numpy(), -1, stack.thick_axis))


def test_a_coil_that_falls_off_by_two_thirds_is_made_up_for(truth):
    plain = [acquired(truth, 2, name="a"), acquired(truth, 1, (2, -1, 1.5), (0.7, -1.1, 0.4), name="b")]
    coil = np.exp(np.linspace(0, -1.1, SIDE))  # along an axis within the slices of b
    stacks = [plain[0][0], spoilt(plain[1][0], lambda thick: thick * coil)]
    fused = fuse_stacks(stacks, 10, 0.1, 30, 0.5)
    np.testing.assert_allclose(fused.registrations[0].matrix @ CORNERS, plain[1][1] @ CORNERS, atol=0.9)
    assert fused.gains[1][2] / fused.gains[1][0] > 1.8  # the gain over the ball, which is not all of the field
    assert error_db(fused.volume, truth) > error_db(stacks[0].thin, truth) + 2.5


def test_a_few_values_below_zero_do_not_change_the_gain(truth):
    def undershoot(thick):
        thick = thick.copy()
        thick[2, 2, 2] = -200
        return thick

    stacks = [acquired(truth, 2, name="a")[0], spoilt(acquired(truth, 1, name="b")[0], undershoot)]
    fused = fuse_stacks(stacks, 1, 0.1, 30, 0.5, register=False)
    assert fused.gains[1][1] == pytest.approx(1, abs=0.03)


def test_noise_of_the_stacks_is_not_explained_by_made_up_detail(truth):
    rng = np.random.default_rng(0)
    stacks = [
        spoilt(acquired(truth, axis, name=f"s{axis}")[0], lambda thick: thick + rng.normal(0, 40, thick.shape))
        for axis in (2, 1, 0)
    ]
    single = error_db(stacks[0].thin, truth)
    fused = fuse_stacks(stacks, 10, 0.1, 30, 0.5, register=False)
    assert len(fused.residuals) < 6  # rounds, before and after: it stops by itself
    assert error_db(fused.volume, truth) > single + 2.5
    to_the_end = fuse_stacks(stacks, 10, 0, 30, 0.5, register=False)
    assert error_db(fused.volume, truth) > error_db(to_the_end.volume, truth) + 0.5


def test_registration_finds_a_known_movement(truth):
    stack, movement = acquired(truth, 1, (3, -2, 1), (1.5, -0.8, 0.9))
    found = register_rigid(truth, AFFINE, stack.thick, stack.affine, 1)
    np.testing.assert_allclose(found.matrix @ CORNERS, movement @ CORNERS, atol=0.25)


def test_stacks_that_do_not_fit_are_refused(truth):
    stacks = [acquired(truth, axis, name=f"s{axis}")[0] for axis in (2, 1)]
    with pytest.raises(CaseError, match="30 degrees apart, got 0"):
        fuse_stacks([stacks[0], stacks[0]], 1, 0.1, 30, 0.5)
    with pytest.raises(CaseError, match="at least two"):
        fuse_stacks(stacks[:1], 1, 0.1, 30, 0.5)
    other = acquired(np.random.default_rng(1).permutation(truth.ravel()).reshape(truth.shape), 1, name="other")[0]
    with pytest.raises(CaseError, match="same contrast"):
        fuse_stacks([stacks[0], other], 1, 0.1, 30, 0.5)
    away = np.eye(4)
    away[0, 3] = 500
    far = replace(stacks[1], affine=away @ stacks[1].affine, thin_affine=away @ stacks[1].thin_affine)
    with pytest.raises(CaseError, match="overlap of 0%"):
        fuse_stacks([stacks[0], far], 1, 0.1, 30, 0.5)
