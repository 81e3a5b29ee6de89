# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from scripts.degradation import SLICE_PROFILES, SliceProfileOperator, profile_sigma, slice_profile_matrix
from scripts.geometry import SliceGrid

from tests.conftest import smooth_volume

FLANK = 0.3  # of the FWHM: the stated transition width of the slr profile


def profile_value(profile, fwhm, distance):
    """Height of a profile at a distance from its centre, as its definition draws it."""
    distance = np.abs(distance)
    if profile == "gaussian":
        sigma = fwhm / 2.3548200450309493
        return np.where(distance <= 3 * sigma, np.exp(-(distance**2) / (2 * sigma**2)), 0.0)
    if profile == "box":
        return (distance <= fwhm / 2).astype(float)
    inner, outer = fwhm * (1 - FLANK) / 2, fwhm * (1 + FLANK) / 2
    return np.interp(distance, [0, inner, outer], [1, 1, 0])


def naive_matrix(profile, fwhm, centres, n_thin):
    """The definition, voxel by voxel: a share of each voxel is integrated numerically for box and slr."""
    fine = (np.arange(2000) + 0.5) / 2000 - 0.5
    rows = []
    for centre in centres:
        row = []
        for j in range(n_thin):
            if profile == "decimation":
                row.append(max(0.0, 1 - abs(j - centre)))
            elif profile == "gaussian":
                row.append(float(profile_value(profile, fwhm, np.array(j - centre))))
            else:
                row.append(float(profile_value(profile, fwhm, j + fine - centre).mean()))
        rows.append(np.array(row) / sum(row))
    return np.array(rows)


def tilted(row, centre):
    """The row times the linear function of the voxel for which sum and centre of mass are right: two equations."""
    j = np.arange(len(row))
    moments = [(row * j**power).sum() for power in range(3)]
    constant, slope = np.linalg.solve([moments[:2], moments[1:]], [1, centre])
    return row * (constant + slope * j)


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize(("k", "fwhm"), [(4, 4.0), (4, 2.8), (4, 4.8), (3, 3.0), (2, 5.0), (5, 1.0)])
def test_whole_factor_follows_the_definition_around_k_s_plus_half_of_k_minus_1(profile, k, fwhm):
    """The matrix of the first releases, whose grid was k s + (k - 1) / 2 for every slice s."""
    matrix = slice_profile_matrix(profile, fwhm, SliceGrid.over_slab(6, k))
    centres = [k * s + (k - 1) / 2 for s in range(6)]
    np.testing.assert_allclose(matrix, naive_matrix(profile, fwhm, centres, 6 * k), atol=1e-3)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("scale_factor", [1.5, 2.5, 3.31, 7.2])
@pytest.mark.parametrize("thickness", [0.5, 1.0, 1.7, 2.5])
def test_real_factor_gap_and_overlap_follow_the_definition(profile, scale_factor, thickness):
    """Centres by hand: the slab's middle is the thin grid's middle, slices lie K apart."""
    n_slices = 7
    n_thin = round(n_slices * scale_factor + 1e-9)
    middle = (n_thin - 1) / 2
    centres = [middle + (s - 3) * scale_factor for s in range(n_slices)]
    operator = SliceProfileOperator(SliceGrid.over_slab(n_slices, scale_factor), profile, thickness)
    fwhm = max(1.0, thickness * scale_factor)
    margin = math.ceil(2 * fwhm) + 1  # wide enough for whole rows, which are cut off afterwards
    wide = naive_matrix(profile, fwhm, [centre + margin for centre in centres], n_thin + 2 * margin)
    rows = [row if row.max() == 1 else tilted(row, centre + margin) for row, centre in zip(wide, centres, strict=True)]
    expected = np.array(rows)[:, margin:-margin]
    np.testing.assert_allclose(operator.matrix, expected / expected.sum(axis=1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("scale_factor", [1.5, 1.75, 2.5, 3.31, 4, 7.2])
@pytest.mark.parametrize("thickness", [0.5, 0.75, 1.0, 1.7])
def test_every_slice_lies_where_its_position_is(profile, scale_factor, thickness):
    """A ramp is acquired as a ramp, where no end cuts a slice off; no weight is negative."""
    operator = SliceProfileOperator(SliceGrid.over_slab(14, scale_factor), profile, thickness)
    ramp = torch.arange(operator.grid.n_thin, dtype=torch.float64)
    middle = (operator.grid.n_thin - 1) / 2
    expected = torch.tensor([middle + (k - 6.5) * scale_factor for k in range(3, 11)], dtype=torch.float64)
    torch.testing.assert_close(operator.degrade(ramp)[3:-3], expected, atol=1e-9, rtol=0)
    assert operator.matrix.min() >= 0


def test_box_of_width_k_is_the_block_mean():
    volume = torch.rand(3, 5, 24, dtype=torch.float64)
    expected = volume.reshape(3, 5, 6, 4).mean(-1)
    torch.testing.assert_close(SliceProfileOperator(SliceGrid.over_slab(6, 4), "box").degrade(volume), expected)


def test_box_of_a_real_width_by_hand():
    """K = 2.5, two slices on five voxels: each is two whole voxels and a half, (0.4, 0.4, 0.2).

    Their centre of mass is 0.8 and that of the slice 0.75. Their variance is 0.56, so the weight of voxel j is
    multiplied by 1 - 0.05 / 0.56 (j - 0.8): 15 / 14, 55 / 56 and 25 / 28.
    """
    matrix = SliceProfileOperator(SliceGrid.over_slab(2, 2.5), "box").matrix
    first = [3 / 7, 11 / 28, 5 / 28, 0, 0]
    np.testing.assert_allclose(matrix, [first, first[::-1]])


def test_gaussian_by_hand():
    # K=4: the middle slice's neighbours lie 0.5, 1.5, ... voxels away; sigma = 4 / 2.3548
    weights = [math.exp(-(d**2) / (2 * (4 / 2.35482) ** 2)) for d in (0.5, 1.5, 2.5, 3.5, 4.5)]
    row = slice_profile_matrix("gaussian", 4.0, SliceGrid.over_slab(5, 4))[2]
    np.testing.assert_allclose(row[10:15], np.array(weights) / (2 * sum(weights)), atol=1e-6)
    assert row[15] == 0  # 5.5 voxels away is beyond 3 sigma = 5.096


@pytest.mark.parametrize("profile", SLICE_PROFILES)
def test_stated_width_is_that_of_the_profile(profile):
    """Second moment by numerical integration; the Gaussian is not cut where it is stated."""
    z = np.linspace(-20, 20, 400_001)
    expected = 0.0
    if profile != "decimation":
        height = np.exp(-(z**2) / (2 * (3 / 2.35482) ** 2)) if profile == "gaussian" else profile_value(profile, 3.0, z)
        expected = math.sqrt((height * z**2).sum() / height.sum())
    assert profile_sigma(profile, 3.0) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("scale_factor", [4, 2.7])
def test_constant_stays_constant_up_to_the_edge(profile, scale_factor):
    operator = SliceProfileOperator(SliceGrid.over_slab(4, scale_factor), profile, 1.2)
    result = operator.degrade(torch.full((2, operator.grid.n_thin), 7.0))
    torch.testing.assert_close(result, torch.full((2, 4), 7.0))


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("scale_factor", [3, 3.4])
def test_adjoint(profile, scale_factor):
    operator = SliceProfileOperator(SliceGrid.over_slab(7, scale_factor), profile, 1.1)
    x, y = torch.rand(4, operator.grid.n_thin, dtype=torch.float64), torch.rand(4, 7, dtype=torch.float64)
    torch.testing.assert_close((operator.degrade(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.2])
def test_exact_data_consistency_reproduces_the_slices_and_never_costs(profile, ratio):
    operator = SliceProfileOperator(SliceGrid.over_slab(10, 4), profile, ratio)
    truth = torch.rand(6, 7, 40, dtype=torch.float64)
    acquired = operator.degrade(truth)
    smooth = torch.from_numpy(_smooth_covariance(40, 3.0))
    estimate = truth + 0.3 * torch.randn_like(truth) @ smooth / smooth.sum(dim=0).mean() ** 0.5
    corrected = operator.enforce(estimate.clone(), acquired)
    torch.testing.assert_close(operator.degrade(corrected), acquired, atol=1e-9, rtol=0)
    assert (corrected - truth).norm() < (estimate - truth).norm()
    # the correction is made of the slices' profiles, smoothed: it lies in the range of S D^T
    curves = smooth.numpy() @ operator.matrix.T
    correction = (corrected - estimate).reshape(-1, 40).numpy().T
    np.testing.assert_allclose(curves @ np.linalg.lstsq(curves, correction, rcond=None)[0], correction, atol=1e-7)


def _smooth_covariance(length, width):
    """Gaussian kernel of this standard deviation between all pairs of positions."""
    position = np.arange(length)
    return np.exp(-((position[:, None] - position[None]) ** 2) / (2 * width**2))


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("scale_factor", [2, 2.5, 3, 3.7, 5, 6.3, 8])
@pytest.mark.parametrize("thickness", [0.5, 0.8, 1.0])
def test_exact_data_consistency_explains_any_factor_and_gap(profile, scale_factor, thickness):
    """From an estimate that knows nothing: the slices come back to a thousandth of their range."""
    operator = SliceProfileOperator(SliceGrid.over_slab(16, scale_factor), profile, thickness)
    truth = torch.from_numpy(smooth_volume((12, 12, operator.grid.n_thin), detail=0.4))
    acquired = operator.degrade(truth)
    corrected = operator.enforce(torch.full_like(truth, 300.0), acquired)
    error = (operator.degrade(corrected) - acquired).abs().max()
    assert error < 1e-3 * (acquired.max() - acquired.min())


@pytest.mark.parametrize("profile", ["gaussian", "box", "slr"])
@pytest.mark.parametrize("scale_factor", [2, 3.4, 4])
@pytest.mark.parametrize("thickness", [1.5, 2.0, 2.5])
def test_overlaps_stay_bounded_under_noise(profile, scale_factor, thickness):
    """A box of two spacings has a null at the slices' own rhythm: the inverse without a cutoff blows noise up."""
    operator = SliceProfileOperator(SliceGrid.over_slab(20, scale_factor), profile, thickness)
    x = torch.arange(operator.grid.n_thin, dtype=torch.float64)
    truth = 300 + 200 * torch.sin(x / (3 * scale_factor)).expand(200, -1)
    torch.manual_seed(0)
    acquired = operator.degrade(truth)
    noisy = acquired + 4 * torch.randn_like(acquired)  # 1 % of the range
    error = operator.enforce(truth.clone(), noisy) - truth
    # singular values below a twentieth of the largest are left alone, so noise grows by no more than twenty
    largest = np.linalg.svd(operator.matrix, compute_uv=False)[0]
    bound = 4 * 20 / largest * math.sqrt(20 / operator.grid.n_thin)
    assert error.square().mean().sqrt() < bound
    assert (operator.degrade(operator.enforce(truth.clone(), acquired)) - acquired).abs().max() < 1e-9


def test_without_smoothness_and_cutoff_a_box_of_two_spacings_would_blow_up():
    """Says that the test above can fail: the same noise, the same operator, every direction inverted as it is."""
    grid = SliceGrid.over_slab(120, 4)
    torch.manual_seed(0)
    noise = 4 * torch.randn(200, 120, dtype=torch.float64)

    def spread(**settings):
        operator = SliceProfileOperator(grid, "box", 2.0, **settings)
        return float(operator.enforce(torch.zeros(200, 480, dtype=torch.float64), noise).std())

    assert spread(smoothness=0.01, cutoff=1e-12) > 2 * spread()


def test_regularised_data_consistency_is_the_conditional_mean_of_a_gaussian():
    operator, eps = SliceProfileOperator(SliceGrid.over_slab(8, 4), "gaussian", cutoff=0.0), 0.05
    x, y = torch.rand(5, 32, dtype=torch.float64), torch.rand(5, 8, dtype=torch.float64)
    matrix = operator.matrix
    covariance = _smooth_covariance(32, 3.0) + 1e-9 * np.eye(32)
    noise = eps * np.trace(matrix @ covariance @ matrix.T) / 8
    # argmin (z - x)^T S^-1 (z - x) + |D z - y|^2 / noise, by its normal equations
    precision = np.linalg.inv(covariance)
    left = precision + matrix.T @ matrix / noise
    expected = np.linalg.solve(left, precision @ x.numpy().T + matrix.T @ y.numpy().T / noise).T
    np.testing.assert_allclose(operator.enforce(x.clone(), y, eps).numpy(), expected, atol=1e-4)


def test_float32_volume_is_consistent_to_float_precision():
    operator = SliceProfileOperator(SliceGrid.over_slab(32, 4))
    truth = torch.rand(20, 20, 128)
    acquired = operator.degrade(truth)
    corrected = operator.enforce(torch.zeros_like(truth), acquired)
    assert (operator.degrade(corrected) - acquired).abs().max() < 1e-5


def test_gradient_flows_through_the_operator():
    x = torch.rand(2, 12, requires_grad=True)
    SliceProfileOperator(SliceGrid.over_slab(3, 4)).degrade(x).sum().backward()
    assert (x.grad > 0).all()


def test_what_data_consistency_leaves_of_an_error_by_hand():
    """One box of two voxels: the mean of both is corrected, the difference between them stays."""
    operator = SliceProfileOperator(SliceGrid.over_slab(1, 2), "box")
    error = torch.tensor([[3.0, 1.0], [2.0, 2.0], [-1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    left = operator.left_by_enforce(error)
    torch.testing.assert_close(left, torch.tensor([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]], dtype=torch.float64))
    left[0, 0].backward()
    torch.testing.assert_close(error.grad[0], torch.tensor([0.5, -0.5], dtype=torch.float64))


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize(("columns", "scale_factor"), [(32, 4), (32, 2.5), (31, 3.3)])
@pytest.mark.parametrize(("thickness", "eps"), [(0.6, 0.0), (1.0, 0.1), (2.0, 0.0)])
def test_what_data_consistency_leaves_is_its_error(profile, columns, scale_factor, thickness, eps):
    operator = SliceProfileOperator(SliceGrid.covering(columns, scale_factor), profile, thickness)
    truth = torch.rand(2, 3, columns, dtype=torch.float64)
    estimate = truth + torch.randn_like(truth)
    expected = operator.enforce(estimate.clone(), operator.degrade(truth), eps) - truth
    torch.testing.assert_close(operator.left_by_enforce(estimate - truth, eps), expected)


def test_condition_by_hand():
    """1 / K, thickness / spacing, standard deviation / spacing, rows / slices."""
    operator = SliceProfileOperator(SliceGrid.over_slab(9, 2.5), "box", 0.8)
    assert operator.condition(0.3) == pytest.approx((0.4, 0.8, 0.8 / math.sqrt(12), 0.3))
    positions, condition = operator.told(0.3)
    torch.testing.assert_close(condition, torch.tensor([[0.4, 0.8, 0.8 / math.sqrt(12), 0.3]]))
    torch.testing.assert_close(positions, torch.from_numpy(operator.grid.positions).float())
    narrow = SliceProfileOperator(SliceGrid.over_slab(9, 4), "box", 0.1)  # no narrower than one thin voxel
    assert narrow.condition(0.3)[:2] == pytest.approx((0.25, 0.25))
    assert SliceProfileOperator(SliceGrid.over_slab(9, 4), "decimation").condition(0.2)[1:3] == (0, 0)


def test_bad_arguments_are_refused():
    grid = SliceGrid.over_slab(5, 4)
    with pytest.raises(ValueError, match="profile must be one of"):
        slice_profile_matrix("sinc", 4, grid)
    with pytest.raises(ValueError, match="fwhm must be >= 1"):
        slice_profile_matrix("gaussian", 0.5, grid)
    with pytest.raises(ValueError, match="the thin volume must have 20 slices along its last axis, got 10"):
        SliceProfileOperator(grid).degrade(torch.rand(10))
    with pytest.raises(ValueError, match="the thick volume must have 5 slices along its last axis, got 4"):
        SliceProfileOperator(grid).adjoint(torch.rand(4))
