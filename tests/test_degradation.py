# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from scripts.degradation import SLICE_PROFILES, SliceProfileOperator, slice_profile_matrix


def naive_matrix(profile, fwhm, k, n):
    """The definition of design/method.md, voxel by voxel."""
    rows = []
    for s in range(n):
        centre = s * k + (k - 1) / 2
        row = []
        for j in range(k * n):
            distance = abs(j - centre)
            if profile == "gaussian":
                sigma = fwhm / 2.3548200450309493
                row.append(math.exp(-(distance**2) / (2 * sigma**2)) if distance <= 3 * sigma else 0.0)
            elif profile == "box":
                fine = (np.arange(1000) + 0.5) / 1000 - 0.5  # share of the voxel that lies in the slab
                row.append(float((np.abs(j + fine - centre) <= fwhm / 2).mean()))
            else:
                row.append(max(0.0, 1 - distance))
        rows.append(np.array(row) / sum(row))
    return np.array(rows)


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize(("k", "fwhm"), [(4, 4.0), (4, 2.8), (4, 4.8), (3, 3.0), (2, 5.0), (5, 1.0)])
def test_matrix_follows_the_definition(profile, k, fwhm):
    matrix = slice_profile_matrix(profile, fwhm, k, 6)
    np.testing.assert_allclose(matrix, naive_matrix(profile, fwhm, k, 6), atol=2e-3 if profile == "box" else 1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_box_of_width_k_is_the_block_mean():
    volume = torch.rand(3, 5, 24, dtype=torch.float64)
    expected = volume.reshape(3, 5, 6, 4).mean(-1)
    torch.testing.assert_close(SliceProfileOperator(4, "box").degrade(volume), expected)


def test_gaussian_by_hand():
    # K=4: the middle slice's neighbours lie 0.5, 1.5, ... voxels away; sigma = 4 / 2.3548
    weights = [math.exp(-(d**2) / (2 * (4 / 2.35482) ** 2)) for d in (0.5, 1.5, 2.5, 3.5, 4.5)]
    row = slice_profile_matrix("gaussian", 4.0, 4, 5)[2]
    np.testing.assert_allclose(row[10:15], np.array(weights) / (2 * sum(weights)), atol=1e-6)
    assert row[15] == 0  # 5.5 voxels away is beyond 3 sigma = 5.096


def test_constant_stays_constant_up_to_the_edge():
    for profile in SLICE_PROFILES:
        result = SliceProfileOperator(4, profile, fwhm=4.8).degrade(torch.full((2, 16), 7.0))
        torch.testing.assert_close(result, torch.full((2, 4), 7.0))


@pytest.mark.parametrize("profile", SLICE_PROFILES)
def test_adjoint(profile):
    operator = SliceProfileOperator(3, profile, fwhm=3.3)
    x, y = torch.rand(4, 21, dtype=torch.float64), torch.rand(4, 7, dtype=torch.float64)
    torch.testing.assert_close((operator.degrade(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("profile", SLICE_PROFILES)
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.2])
def test_exact_data_consistency_reproduces_the_slices_and_never_costs(profile, ratio):
    operator = SliceProfileOperator(4, profile, fwhm=4 * ratio)
    truth = torch.rand(6, 7, 40, dtype=torch.float64)
    acquired = operator.degrade(truth)
    estimate = truth + 0.3 * torch.randn_like(truth)
    corrected = operator.enforce(estimate.clone(), acquired)
    torch.testing.assert_close(operator.degrade(corrected), acquired, atol=1e-9, rtol=0)
    assert (corrected - truth).norm() < (estimate - truth).norm()
    # the correction is the smallest that does it: it lies in the range of D^T, so D's null space is untouched
    null = torch.linalg.svd(torch.tensor(operator.matrix(10).copy()), full_matrices=True).Vh[10:]
    torch.testing.assert_close(corrected @ null.T, estimate @ null.T)


def test_regularised_data_consistency_is_the_ridge_solution():
    operator, eps = SliceProfileOperator(4, "gaussian"), 0.05
    x, y = torch.rand(5, 32, dtype=torch.float64), torch.rand(5, 8, dtype=torch.float64)
    matrix = operator.matrix(8)
    # argmin |z - x|^2 + |D z - y|^2 / eps, solved by its normal equations
    expected = np.linalg.solve(np.eye(32) + matrix.T @ matrix / eps, x.numpy().T + matrix.T @ y.numpy().T / eps).T
    np.testing.assert_allclose(operator.enforce(x.clone(), y, eps).numpy(), expected, atol=1e-10)


def test_float32_volume_is_consistent_to_float_precision():
    operator = SliceProfileOperator(4)
    truth = torch.rand(20, 20, 128)
    acquired = operator.degrade(truth)
    corrected = operator.enforce(torch.zeros_like(truth), acquired)
    assert (operator.degrade(corrected) - acquired).abs().max() < 1e-5


def test_gradient_flows_through_the_operator():
    x = torch.rand(2, 12, requires_grad=True)
    SliceProfileOperator(4).degrade(x).sum().backward()
    assert (x.grad > 0).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="profile must be one of"):
        slice_profile_matrix("sinc", 4, 4, 5)
    with pytest.raises(ValueError, match="fwhm must be >= 1"):
        slice_profile_matrix("gaussian", 0.5, 4, 5)
    with pytest.raises(ValueError, match="multiple of 4"):
        SliceProfileOperator(4).degrade(torch.rand(10))
