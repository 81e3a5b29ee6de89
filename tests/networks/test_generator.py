# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.networks.generator import Generator
from scripts.networks.layers import AdaptiveResidualBlock, UpsampleConv, adaptive_instance_norm
from torch.nn import functional as F

SMALL = {"width": 2, "attribute_channels": 3, "residual_blocks": 2, "perceptron_width": 5}


def naive_adain(x, scale, shift):
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            plane = x[b, c]
            mean = plane.sum() / plane.numel()
            variance = ((plane - mean) ** 2).sum() / plane.numel()
            out[b, c] = scale[b, c] * (plane - mean) / torch.sqrt(variance + 1e-5) + shift[b, c]
    return out


def conv(x, weight):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight)


def naive_upsample(x, weight, bias):
    """Reflect on the small grid, repeat every pixel 2 x 2, then all 25 products per output pixel."""
    big = F.pad(x, (1, 1, 1, 1), mode="reflect").repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.conv2d(big, weight, bias)


def layer_norm(x, scale, shift):
    mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


def test_adain_equals_loops():
    x, scale, shift = 3 * torch.randn(2, 3, 5, 4) + 1, torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(adaptive_instance_norm(x, scale, shift), naive_adain(x, scale, shift))


def test_adain_sets_mean_and_deviation():
    y = adaptive_instance_norm(torch.randn(2, 3, 32, 32) * 7 - 4, torch.full((2, 3), 2.5), torch.full((2, 3), -0.5))
    torch.testing.assert_close(y.mean((2, 3)), torch.full((2, 3), -0.5))
    torch.testing.assert_close(y.std((2, 3), unbiased=False), torch.full((2, 3), 2.5), atol=1e-3, rtol=0)


def test_adaptive_block_follows_its_equation():
    block = AdaptiveResidualBlock(3)
    x, style = torch.randn(2, 3, 6, 5), torch.randn(2, 2, 2, 3)
    y = F.relu(naive_adain(conv(x, block.conv_1.weight), style[:, 0, 0], style[:, 0, 1]))
    torch.testing.assert_close(
        block(x, style), x + naive_adain(conv(y, block.conv_2.weight), style[:, 1, 0], style[:, 1, 1])
    )


@pytest.mark.parametrize("size", [(2, 2), (3, 7)])
def test_upsampling_equals_the_long_way(size):
    layer = UpsampleConv(3, 4)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(layer(x), naive_upsample(x, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


def test_generator_follows_its_equation():
    torch.manual_seed(0)
    generator = Generator(**SMALL)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    content, attribute = torch.randn(3, 8, 4, 5), torch.randn(3, 3)
    w1, b1, w2, b2, w3, b3 = generator.perceptron.parameters()
    styles = F.relu(F.relu(attribute @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    x = content
    for i, block in enumerate(generator.blocks):
        x = block(x, styles[:, 32 * i : 32 * (i + 1)].reshape(3, 2, 2, 8))  # 4 vectors of 8 channels per block
    up1, up1_bias, scale1, shift1, up2, up2_bias, scale2, shift2, last, last_bias = generator.image.parameters()
    x = F.relu(layer_norm(naive_upsample(x, up1, up1_bias), scale1, shift1))
    x = F.relu(layer_norm(naive_upsample(x, up2, up2_bias), scale2, shift2))
    x = torch.tanh(F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), last, last_bias))
    assert x.shape == (3, 1, 16, 20)
    torch.testing.assert_close(generator(content, attribute), x, atol=1e-5, rtol=1e-4)


def test_every_image_has_its_own_attribute():
    generator = Generator(**SMALL)
    content, attribute = torch.randn(2, 8, 4, 4), torch.randn(2, 3)
    one_by_one = torch.cat([generator(content[i : i + 1], attribute[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(generator(content, attribute), one_by_one, atol=1e-5, rtol=1e-4)
    same = generator(content[:1].expand(2, -1, -1, -1), attribute)
    assert (same[0] - same[1]).abs().max() > 1e-3


def test_starts_at_plain_instance_normalisation():
    """Without an attribute's influence scale is 1 and shift 0."""
    generator = Generator(**SMALL)
    torch.nn.init.zeros_(generator.perceptron[-1].weight)
    styles = generator.perceptron(torch.randn(1, 3)).reshape(2, 2, 2, 8)
    assert torch.equal(styles[:, :, 0], torch.ones(2, 2, 8))
    assert torch.equal(styles[:, :, 1], torch.zeros(2, 2, 8))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    generator = Generator(**{**SMALL, "width": 4, "perceptron_width": 16})
    image = generator(torch.randn(2, 16, 4, 4), torch.randn(2, 3))
    (image * torch.randn_like(image)).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_paper_size_by_hand():
    """Width 64, 8-vector, perceptron 256, four residual blocks."""
    w, n, p, a = 64, 4, 256, 8
    perceptron = a * p + p + p * p + p + (p + 1) * n * 2 * 2 * 4 * w
    up = (25 * 4 * w * 2 * w + 2 * w) + 2 * 2 * w + (25 * 2 * w * w + w) + 2 * w
    assert sum(x.numel() for x in Generator(w, a, n, p).parameters()) == (
        perceptron + n * 2 * 9 * (4 * w) ** 2 + up + 49 * w + 1
    )
