# SPDX-License-Identifier: Apache-2.0
"""The supervised loss and its expected error, computed by hand."""

import math

import pytest
import torch
from scripts.losses.restoration import RestorationLoss
from torch import nn


def image(*values):
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_one_channel_is_the_distance_alone():
    loss = RestorationLoss(nn.L1Loss(), lambda_error=1.0, least_error=0.001)
    assert loss(image(1.0, 4.0), image(2.0, 2.0)).item() == 1.5


def test_both_terms_by_hand():
    """Errors 1 and 2, expected 1 and e: Laplace terms 1 / 1 + 0 and 2 / e + 1."""
    pred = torch.cat([image(1.0, 4.0), image(0.0, 1.0)], dim=1)
    loss = RestorationLoss(nn.MSELoss(), lambda_error=0.5, least_error=0.001)
    expected = (1 + 4) / 2 + 0.5 * (1 + 2 / math.e + 1) / 2
    assert loss(pred, image(2.0, 2.0)).item() == pytest.approx(expected, rel=1e-6)
    assert RestorationLoss(nn.MSELoss(), 0, 0.001)(pred, image(2.0, 2.0)).item() == 2.5


def test_the_least_loss_is_where_the_expected_error_is_true():
    target = image(0.0, 0.0, 0.0, 0.0)
    errors = image(0.1, 0.2, 0.3, 0.6)  # mean 0.3
    losses = {
        expected: RestorationLoss(nn.L1Loss(), 1.0, 0.001)(
            torch.cat([errors, torch.full_like(errors, math.log(expected))], dim=1), target
        ).item()
        for expected in (0.2, 0.25, 0.3, 0.35, 0.4)
    }
    assert min(losses, key=losses.get) == 0.3


def test_an_error_of_zero_does_not_pull_the_expectation_to_minus_infinity():
    pred = torch.cat([image(1.0), image(math.log(0.01))], dim=1).requires_grad_()
    RestorationLoss(nn.L1Loss(), 1.0, 0.01)(pred, image(1.0)).backward()
    assert pred.grad[0, 1].item() == pytest.approx(0, abs=1e-6)


def test_what_the_network_says_of_its_error_does_not_change_the_image():
    target = torch.rand(2, 1, 3, 4)
    gradients = []
    for weight in (0.0, 5.0):
        pred = torch.linspace(-1, 1, 48).reshape(2, 2, 3, 4).requires_grad_()
        RestorationLoss(nn.L1Loss(), weight, 0.001)(pred, target).backward()
        gradients.append(pred.grad)
    torch.testing.assert_close(gradients[0][:, 0], gradients[1][:, 0])
    assert (gradients[0][:, 1] == 0).all()
    assert (gradients[1][:, 1] != 0).any()
