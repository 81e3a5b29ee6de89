# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest
import torch
from scripts.geometry import SliceGrid
from scripts.networks.rdn import RDN, ResidualDenseBlock, default_positions, shuffle_last_axis
from torch.nn import functional as F

from tests.conftest import told

SMALL = {"scale_factor": 4, "blocks": 2, "layers": 2, "growth": 4, "features": 6}


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 8), (9, 5), (1, 1)])
def test_shape(scale_factor, height, width):
    network = RDN(**{**SMALL, "scale_factor": scale_factor})
    pred = network(torch.rand(3, 1, height, width), *told(width, scale_factor))
    assert pred.shape == (3, 1, height, scale_factor * width)


def test_reproduction_size_has_the_published_number_of_parameters():
    """RDN of the paper (D=16, C=8, G=G0=64), counted by hand with a one-axis x4 tail: 22.1 million."""
    count = sum(p.numel() for p in RDN(4, blocks=16, layers=8, growth=64, features=64).parameters())
    dense = sum((64 + 64 * i) * 64 * 9 + 64 for i in range(8)) + (64 + 8 * 64) * 64 + 64
    shallow = (9 * 64 + 64) + (64 * 64 * 9 + 64)
    fusion = (16 * 64 * 64 + 64) + (64 * 64 * 9 + 64)
    tail = (64 * 256 * 9 + 256) + (64 * 9 + 1)
    assert count == 16 * dense + shallow + fusion + tail == 22_121_089


def test_state_dict_keys_are_frozen():
    """Weights in the field must load for ever; a rename needs a new major version."""
    keys = "\n".join(f"{k} {tuple(v.shape)}" for k, v in RDN(**SMALL).state_dict().items())
    assert hashlib.sha256(keys.encode()).hexdigest()[:16] == "53e032ac178fdfca"


def test_every_parameter_gets_a_gradient():
    network = RDN(**SMALL)
    network(torch.rand(2, 1, 12, 6), *told(6, 4)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_torchscript_gives_the_same():
    network = RDN(**SMALL).eval()
    image = torch.rand(2, 1, 11, 7)
    torch.testing.assert_close(torch.jit.script(network)(image, *told(7, 4)), network(image, *told(7, 4)))


def test_without_weights_the_network_is_cubic_interpolation():
    network = RDN(**SMALL)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(2, 1, 8, 9)
    expected = F.interpolate(image, scale_factor=(1, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(network(image, *told(9, 4)), expected, atol=1e-5, rtol=1e-5)


def test_shuffle_interleaves_the_last_axis():
    b, c, k, h, w = 2, 3, 4, 5, 6
    features = torch.rand(b, c * k, h, w)
    result = shuffle_last_axis(features, k)
    for channel in range(c):
        for phase in range(k):
            torch.testing.assert_close(result[:, channel, :, phase::k], features[:, channel * k + phase])


def test_dense_block_follows_its_equation():
    block = ResidualDenseBlock(features=3, growth=2, layers=2)
    x = torch.rand(1, 3, 6, 5)
    first = torch.relu(F.conv2d(x, block.layers[0].weight, block.layers[0].bias, padding=1))
    second = torch.relu(F.conv2d(torch.cat([x, first], 1), block.layers[1].weight, block.layers[1].bias, padding=1))
    fused = F.conv2d(torch.cat([x, first, second], 1), block.fusion.weight, block.fusion.bias)
    torch.testing.assert_close(block(x), x + fused)


@pytest.mark.parametrize("name", ["scale_factor", "blocks", "layers", "growth", "features"])
def test_bad_size_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} (of RDN )?must be"):
        RDN(**{**SMALL, name: 0})


@pytest.mark.parametrize("scale_factor", [2.5, 1])
def test_its_pixel_shuffle_is_for_whole_factors(scale_factor):
    with pytest.raises(ValueError, match="scale_factor of RDN must be a whole number >= 2"):
        RDN(**{**SMALL, "scale_factor": scale_factor})


def test_another_grid_than_its_own_is_refused():
    with pytest.raises(AssertionError, match="must be that of the network's whole scale_factor"):
        RDN(**SMALL)(torch.rand(1, 1, 8, 6), *told(6, 3))


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_default_positions_are_those_of_the_grid(scale_factor):
    found = default_positions(torch.zeros(2, 1, 3, 5), scale_factor)
    torch.testing.assert_close(found, SliceGrid.over_slab(5, scale_factor).positions_tensor(), atol=1e-6, rtol=0)
