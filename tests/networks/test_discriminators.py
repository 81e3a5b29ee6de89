# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.networks.discriminators import DiscriminatorPair, MultiScaleDiscriminator
from torch.nn import functional as F


def naive_half(image):
    """Mean over the 3 x 3 pixels around every second pixel, as many of them as are inside."""
    b, c, h, w = image.shape
    out = torch.empty(b, c, (h + 1) // 2, (w + 1) // 2)
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            window = image[:, :, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
            out[:, :, i, j] = window.mean((2, 3))
    return out


def test_follows_its_equation_at_every_scale():
    discriminator = MultiScaleDiscriminator(width=2, layers=2, scales=3)
    image = torch.randn(2, 1, 16, 32)
    logits = discriminator(image)
    assert [tuple(z.shape) for z in logits] == [(2, 1, 4, 8), (2, 1, 2, 4), (2, 1, 1, 2)]
    for scale, z in zip(discriminator.scales, logits, strict=True):
        w1, b1, w2, b2, w3, b3 = scale.parameters()
        x = image
        for weight, bias in ((w1, b1), (w2, b2)):
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias, stride=2)
            x = torch.where(x > 0, x, 0.2 * x)
        torch.testing.assert_close(z, F.conv2d(x, w3, b3))
        image = naive_half(image)


def test_pair_judges_each_domain_with_its_own_network():
    pair = DiscriminatorPair(width=2, layers=1, scales=2)
    mr, ct = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    judged_mr, judged_ct = pair(mr, ct)
    for ours, theirs in ((judged_mr, pair.mr(mr)), (judged_ct, pair.ct(ct))):
        torch.testing.assert_close(ours, theirs)
    assert not {id(p) for p in pair.mr.parameters()} & {id(p) for p in pair.ct.parameters()}


def test_every_parameter_gets_a_gradient():
    pair = DiscriminatorPair(width=4, layers=2, scales=3)
    judged_mr, judged_ct = pair(torch.randn(2, 1, 32, 32), torch.randn(2, 1, 32, 32))
    sum((z * torch.randn_like(z)).sum() for z in [*judged_mr, *judged_ct]).backward()
    for name, parameter in pair.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_paper_size_by_hand():
    """Three scales, four layers, width 64."""
    layers = (16 * 64 + 64) + (16 * 64 * 128 + 128) + (16 * 128 * 256 + 256) + (16 * 256 * 512 + 512)
    count = sum(p.numel() for p in MultiScaleDiscriminator(64, 4, 3).parameters())
    assert count == 3 * (layers + 512 + 1)


def test_least_size_is_the_least_that_works():
    discriminator = MultiScaleDiscriminator(width=2, layers=4, scales=3)
    assert [z.shape[-1] for z in discriminator(torch.zeros(1, 1, 64, 64))] == [4, 2, 1]
    with pytest.raises(ValueError, match="height and width must be >= 64"):
        discriminator(torch.zeros(1, 1, 64, 63))


@pytest.mark.parametrize("name", ["width", "layers", "scales"])
def test_bad_size_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        MultiScaleDiscriminator(**{"width": 2, "layers": 2, "scales": 2, name: 0})
