# SPDX-License-Identifier: Apache-2.0
"""What the network is told of a batch, and the operator that fits it."""

import pytest
import torch
from scripts.training.acquisition import BatchOperator, supervised_batch, told

from tests.training.toys import POSITIONS


def batch(prefix="", count=2, first=0.0):
    conditions = torch.arange(4.0 * count).reshape(count, 4) + first
    return {f"{prefix}positions": torch.tensor([POSITIONS] * count), f"{prefix}condition": conditions}


def test_a_batch_of_one_source():
    positions, condition = told(batch())
    assert tuple(positions.tolist()) == POSITIONS
    assert condition.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_sources_one_after_the_other():
    both = {**batch("mr_"), **batch("ct_", 1, first=50.0), "ct_positions": torch.zeros(1, 4)}
    positions, condition = told(both, "mr", "ct")
    assert tuple(positions.tolist()) == POSITIONS  # the first source's: they are all alike
    assert condition.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [50, 51, 52, 53]]
    assert told(both, "ct")[1].tolist() == [[50, 51, 52, 53]]


def test_a_batch_for_the_supervised_trainers():
    image, label = torch.rand(2, 1, 3, 2), torch.rand(2, 1, 3, 4)
    found = supervised_batch({"image": image, "label": label, **batch()}, "meta", True, more=1)
    assert torch.equal(supervised_batch({"image": image, "label": label, **batch()}, "cpu")[0], image)
    assert [part.device.type for part in (*found[:2], *found[2])] == ["meta"] * 4
    assert found[1].shape == label.shape
    assert len(found) == 4
    assert found[3] == {}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_every_image_is_made_thick_as_its_network_was_told(order):
    """Boxes at thin coordinates 0.5 and 2.5, two voxels wide (mean of two) or four (of the three that are there)."""
    thin = torch.tensor([[1.0, 3.0, 5.0, 10.0], [1.0, 3.0, 5.0, 10.0]])[:, None, None]
    conditions = torch.tensor([[0.5, 1.0, 0.0, 0.0], [0.5, 2.0, 0.0, 0.0]])[list(order)]
    found = BatchOperator("box")(thin, 2, torch.tensor(POSITIONS), conditions)
    assert found.shape == (2, 1, 1, 2)
    expected = torch.tensor([[2.0, 7.5], [3.0, 6.0]])[list(order)]
    torch.testing.assert_close(found[:, 0, 0], expected)


def test_every_image_needs_its_own_condition():
    with pytest.raises(ValueError, match="argument"):
        BatchOperator("box")(torch.zeros(2, 1, 1, 4), 2, torch.tensor(POSITIONS), torch.ones(1, 4))


def test_the_profile_is_the_one_asked_for():
    """Decimation takes the value between the two middle voxels; a thickness that is not round is no trouble."""
    thin = torch.tensor([1.0, 3.0, 5.0, 10.0]).reshape(1, 1, 1, 4).requires_grad_()
    found = BatchOperator("decimation")(thin, 2, torch.tensor(POSITIONS), torch.tensor([[0.5, 0.123456, 0.0, 0.0]]))
    assert found.flatten().tolist() == [2.0, 7.5]
    found.sum().backward()
    assert thin.grad.flatten().tolist() == [0.5, 0.5, 0.5, 0.5]
