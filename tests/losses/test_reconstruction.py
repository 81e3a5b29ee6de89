# SPDX-License-Identifier: Apache-2.0
"""Eq. 1, 2 and 3, and the data-consistency anchor: means of absolute differences, computed by hand."""

import pytest
import torch
from scripts.losses.cross_cycle import CrossCycleLoss
from scripts.losses.data_consistency import DataConsistencyLoss
from scripts.losses.latent import LatentLoss
from scripts.losses.self_reconstruction import SelfReconstructionLoss


def flat(*values):
    return torch.tensor(values).reshape(1, 1, 1, -1).requires_grad_()


@pytest.mark.parametrize("loss", [SelfReconstructionLoss(), CrossCycleLoss()])
def test_images(loss):
    made_mr, mr, made_ct, ct = flat(1.0, 4.0), flat(2.0, 2.0), flat(0.0, -1.0), flat(0.5, 3.0)
    terms = loss(made_mr, mr, made_ct, ct)
    assert {name: term.item() for name, term in terms.items()} == {"mr": 1.5, "ct": 2.25}  # (1 + 2) / 2, (.5 + 4) / 2
    sum(terms.values()).backward()
    assert made_mr.grad.flatten().tolist() == [-0.5, 0.5]
    assert made_ct.grad.flatten().tolist() == [-0.5, -0.5]
    assert mr.grad.flatten().tolist() == [0.5, -0.5]  # who must not learn is detached by the objective, not here


def test_codes():
    """Eight different codes, so that no two may be exchanged; gradients reach recovered and original content."""
    codes = [torch.tensor([[value, 0.0]]).requires_grad_() for value in (1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0, 255.0)]
    terms = LatentLoss()(*codes)
    assert {name: term.item() for name, term in terms.items()} == {
        "content_mr": 1.0, "content_ct": 4.0, "attribute_mr": 16.0, "attribute_ct": 64.0,
    }  # fmt: skip
    sum(terms.values()).backward()
    assert [code.grad[0, 0].item() for code in codes] == [-0.5, 0.5] * 4


def halved(x, n_slices, positions, condition):
    assert (n_slices, positions, condition) == (4, "where", "how")
    return (x[..., ::2] + x[..., 1::2]) / 2


def test_data_consistency_compares_the_slices_inside():
    mr = torch.tensor([9.0, 9, 1, 3, 4, 8, 9, 9]).reshape(1, 1, 1, 8).requires_grad_()
    thick = torch.tensor([0.0, 1.0, 9.0, 0.0]).reshape(1, 1, 1, 4)
    loss = DataConsistencyLoss(halved, margin_slices=1)(mr, thick, "where", "how")
    assert loss.item() == 2.0  # |2 - 1| and |6 - 9|, their mean
    loss.backward()
    assert mr.grad.flatten().tolist() == [0, 0, 0.25, 0.25, -0.25, -0.25, 0, 0]
    assert DataConsistencyLoss(halved, 0)(mr, thick, "where", "how").item() == (9 + 1 + 3 + 9) / 4


def test_negative_margin_is_refused():
    with pytest.raises(ValueError, match="margin_slices must be >= 0, got -1"):
        DataConsistencyLoss(halved, -1)
