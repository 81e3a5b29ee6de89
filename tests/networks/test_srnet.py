# SPDX-License-Identifier: Apache-2.0
"""SRNet with the continuous tail: any factor from one set of weights, in every form it is exported to."""

import hashlib

import pytest
import torch
from scripts.inference.engines import ENGINES, Engine
from scripts.losses.restoration import RestorationLoss
from scripts.networks.srnet import SRNet
from torch.nn import functional as F

from tests.conftest import TINY_NETWORK, told

SMALL = {**TINY_NETWORK, "blocks": 2, "features": 6, "sets": 3, "thin_features": 5, "hidden": 8}


@pytest.fixture
def network():
    """A network that does something, unlike a fresh one."""
    torch.manual_seed(0)
    network = SRNet(**SMALL).eval()
    torch.nn.init.normal_(network.modulation[2].weight, std=0.1)
    network.reconstruct.weight.data *= 10
    return network


@pytest.mark.parametrize("scale_factor", [1.5, 2, 2.5, 3.31, 4, 8])
@pytest.mark.parametrize(("height", "n_slices"), [(16, 8), (9, 5), (1, 4)])
def test_shape_for_any_factor(network, scale_factor, height, n_slices):
    positions, condition = told(n_slices, scale_factor)
    pred = network(torch.rand(3, 1, height, n_slices), positions, condition)
    assert pred.shape == (3, 2, height, len(positions))
    assert len(positions) == int(n_slices * scale_factor + 0.5)


def test_one_condition_for_all_or_one_for_each(network):
    image, (positions, condition) = torch.rand(2, 1, 8, 6), told(6, 2.5)
    torch.testing.assert_close(network(image, positions, condition), network(image, positions, condition.repeat(2, 1)))
    other = told(6, 2.5, thickness_to_spacing=0.5)[1]
    mixed = network(image, positions, torch.cat([condition, other]))
    torch.testing.assert_close(mixed[1:], network(image[1:], positions, other))
    assert (mixed[1] - network(image, positions, condition)[1]).abs().max() > 1e-4  # what it is told matters


def test_positions_are_free_of_each_other_in_the_decoder(network):
    """Each thin slice decodes its own nearest thick slice: a part of the positions gives that part of the features."""
    positions, condition = told(9, 3.31)
    features = torch.rand(2, SMALL["features"], 7, 9)
    whole = network._decode(features, positions, condition)
    torch.testing.assert_close(whole[..., 4:20], network._decode(features, positions[4:20], condition))
    nearest = [min(range(9), key=lambda k: abs(k - float(p))) for p in positions]
    for index in (0, 7, 14, 28):
        moved = features.clone()
        moved[..., [k for k in range(9) if k != nearest[index]]] += 1
        torch.testing.assert_close(network._decode(moved, positions, condition)[..., index], whole[..., index])


def test_a_fresh_network_is_close_to_cubic_and_without_weights_it_is():
    torch.manual_seed(0)
    network, image = SRNet(**SMALL), torch.rand(2, 1, 8, 9) * 2 - 1
    expected = F.interpolate(image, scale_factor=(1, 4), mode="bicubic", align_corners=False)
    positions, condition = told(9, 4)
    assert (network(image, positions, condition)[:, :1] - expected).abs().mean() < 0.1
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(network(image, positions, condition)[:, :1], expected, atol=1e-5, rtol=1e-5)


def test_the_error_channel_gives_no_gradient_into_the_body(network):
    positions, condition = told(6, 2.5)
    network(torch.rand(2, 1, 8, 6), positions, condition)[:, 1].sum().backward()
    touched = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched
    assert all(name.startswith("error_scale.") for name in touched)


def test_every_parameter_learns_from_the_loss(network):
    positions, condition = told(6, 2.5)
    pred = network(torch.rand(2, 1, 8, 6), positions, condition)
    RestorationLoss(torch.nn.L1Loss(), 0.1, 0.001)(pred, torch.rand(2, 1, 8, 15)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES[1:])
def test_one_export_serves_every_factor(network, engine):
    network.requires_grad_(False)
    converted = Engine(engine)(network)
    for scale_factor, shape in ((4, (2, 1, 24, 16)), (2.5, (1, 1, 9, 7)), (1.5, (3, 1, 40, 12)), (8, (1, 1, 17, 5))):
        positions, condition = told(shape[-1], scale_factor, thickness_to_spacing=0.8)
        image = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        found = converted(image, positions, condition)
        torch.testing.assert_close(found, network(image, positions, condition), atol=1e-5, rtol=0)


def test_state_dict_keys_are_frozen():
    """Weights in the field must load for ever; a rename needs a new major version."""
    keys = "\n".join(f"{k} {tuple(v.shape)}" for k, v in SRNet(**SMALL).state_dict().items())
    assert hashlib.sha256(keys.encode()).hexdigest()[:16] == "19e5ec5416388663"


@pytest.mark.parametrize("name", SMALL)
def test_bad_size_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        SRNet(**{**SMALL, name: 0})
