# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.networks.encoders import AttributeEncoder, ContentEncoder
from torch.nn import functional as F


def reflect_conv(x, weight, bias=None, stride=1):
    pad = (weight.shape[-1] - 1) // 2
    return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), weight, bias, stride=stride)


def normalise(x):
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt()


def test_content_code_has_a_quarter_of_the_grid_and_four_widths():
    assert ContentEncoder(3, 1)(torch.rand(2, 1, 16, 28)).shape == (2, 12, 4, 7)


def test_attribute_code_is_a_vector_for_any_size():
    encoder = AttributeEncoder(3, 8)
    assert encoder(torch.rand(2, 1, 16, 28)).shape == (2, 8)
    assert encoder(torch.rand(1, 1, 64, 32)).shape == (1, 8)


def test_content_encoder_follows_its_equation():
    encoder = ContentEncoder(2, 1)
    image = torch.rand(2, 1, 16, 20)
    first, second, third, c1, c2 = encoder.parameters()
    x = F.relu(normalise(reflect_conv(image, first)))
    x = F.relu(normalise(reflect_conv(x, second, stride=2)))
    x = F.relu(normalise(reflect_conv(x, third, stride=2)))
    x = x + normalise(reflect_conv(F.relu(normalise(reflect_conv(x, c1))), c2))
    torch.testing.assert_close(encoder(image), x)


def test_attribute_encoder_follows_its_equation():
    encoder = AttributeEncoder(2, 3)
    image = torch.rand(2, 1, 32, 16)
    *convolutions, head_weight, head_bias = encoder.parameters()
    x = image
    for index in range(5):
        weight, bias = convolutions[2 * index : 2 * index + 2]
        x = F.relu(reflect_conv(x, weight, bias, stride=1 if index == 0 else 2))
    assert x.shape == (2, 8, 2, 1)  # four convolutions of stride 2
    torch.testing.assert_close(encoder(image), x.mean((2, 3)) @ head_weight.T + head_bias)


def test_content_does_not_see_brightness_and_contrast_but_the_attribute_does():
    content, attribute = ContentEncoder(2, 1), AttributeEncoder(2, 8)
    image = torch.rand(1, 1, 16, 16) - 0.5
    restyled = 0.5 * image + 0.3
    torch.testing.assert_close(content(restyled), content(image), atol=2e-3, rtol=1e-3)
    assert (attribute(restyled) - attribute(image)).abs().max() > 0.02


@pytest.mark.parametrize("encoder", [ContentEncoder(3, 2), AttributeEncoder(8, 8)])
def test_every_parameter_gets_a_gradient(encoder):
    torch.manual_seed(0)
    code = encoder(torch.randn(2, 1, 32, 32))
    (code * torch.randn_like(code)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_paper_sizes_by_hand():
    """Width 64, four residual blocks, 8-vector."""
    w = 64
    content = 49 * w + 16 * w * 2 * w + 16 * 2 * w * 4 * w + 4 * 2 * 9 * (4 * w) ** 2
    attribute = 49 * w + w + (16 * w * 2 * w + 2 * w) + (16 * 2 * w * 4 * w + 4 * w)
    attribute += 2 * (16 * (4 * w) ** 2 + 4 * w) + 8 * 4 * w + 8
    assert sum(p.numel() for p in ContentEncoder(64, 4).parameters()) == content
    assert sum(p.numel() for p in AttributeEncoder(64, 8).parameters()) == attribute
