# SPDX-License-Identifier: Apache-2.0
import collections

import pytest
import torch
from scripts.networks.citnet import CITNet, Domain, Translation

SMALL = {"width": 2, "attribute_channels": 3, "residual_blocks": 1, "perceptron_width": 6}


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.rand(4, 1, 16, 28), torch.rand(4, 1, 16, 28), torch.randn(4, 3), torch.randn(4, 3)


def naive_translation(net, x, y, prior_x, prior_y, own=False):
    """Section 2.2 of the paper, one call per symbol, nothing shared; ``own``: the attribute code of section 1."""
    attribute_x = net.mr.attribute(x) if own else prior_x
    fake_x = net.mr.generator(net.ct.content(y), attribute_x)
    fake_y = net.ct.generator(net.mr.content(x), prior_y)
    return Translation(
        content_mr=net.mr.content(x),
        content_ct=net.ct.content(y),
        content_mr_again=net.ct.content(fake_y),
        content_ct_again=net.mr.content(fake_x),
        attribute_mr=attribute_x,
        attribute_ct=prior_y,
        attribute_mr_again=net.mr.attribute(fake_x),
        attribute_ct_again=net.ct.attribute(fake_y),
        mr_self=net.mr.generator(net.mr.content(x), net.mr.attribute(x)),
        ct_self=net.ct.generator(net.ct.content(y), net.ct.attribute(y)),
        mr_to_ct=fake_y,
        ct_to_mr=fake_x,
        mr_cycle=net.mr.generator(net.ct.content(fake_y), net.mr.attribute(x)),
        ct_cycle=net.ct.generator(net.mr.content(fake_x), net.ct.attribute(y)),
    )


@pytest.mark.parametrize("own", [False, True])
def test_equals_one_call_per_symbol(inputs, own):
    net = CITNet(**SMALL)
    ours, naive = net(*inputs, own), naive_translation(net, *inputs, own)
    for name in Translation._fields:
        torch.testing.assert_close(getattr(ours, name), getattr(naive, name), atol=1e-5, rtol=1e-4, msg=name)


def test_the_mrs_own_attribute_code_takes_the_place_of_the_draw_and_learns(inputs):
    """What x' is made with, and read back against, is E^A_X(x~_H): it no longer depends on the draw, but on x~_H."""
    net = CITNet(**SMALL)
    mr, ct, prior_mr, prior_ct = inputs
    mr.requires_grad_()
    ours, other = (net(mr, ct, draw, prior_ct, own_attribute=True) for draw in (prior_mr, -prior_mr))
    assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))
    drawn, redrawn = (net(mr, ct, draw, prior_ct).ct_to_mr for draw in (prior_mr, -prior_mr))
    assert not torch.equal(drawn, redrawn)
    reached = [torch.autograd.grad(x.sum(), mr, allow_unused=True)[0] is not None for x in (ours.ct_to_mr, drawn)]
    assert reached == [True, False]


def test_each_network_runs_as_seldom_as_the_equations_allow(inputs):
    """Distinct arguments: two images per encoder (own image, translated image), three code pairs per generator."""
    net, images, calls = CITNet(**SMALL), collections.Counter(), collections.Counter()
    for name in ("mr.content", "mr.attribute", "mr.generator", "ct.content", "ct.attribute", "ct.generator"):

        def count(module, args, result, name=name):
            images[name] += len(result) // len(inputs[0])
            calls[name] += 1

        net.get_submodule(name).register_forward_hook(count)
    net(*inputs)
    assert images == {
        "mr.content": 2, "mr.attribute": 2, "mr.generator": 3, "ct.content": 2, "ct.attribute": 2, "ct.generator": 3,
    }  # fmt: skip
    # x~_H and x' share a batch in MR's content encoder alone: x' may need the attribute code of x~_H
    assert sum(calls.values()) == 10


def test_every_parameter_gets_a_gradient(inputs):
    net = CITNet(**{**SMALL, "width": 4, "perceptron_width": 16})
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in net(*inputs)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_domains_share_no_parameters_and_are_of_the_same_size():
    net = CITNet(**SMALL)
    assert not {id(p) for p in net.mr.parameters()} & {id(p) for p in net.ct.parameters()}
    shapes = [[p.shape for p in domain.parameters()] for domain in (net.mr, net.ct)]
    assert shapes[0] == shapes[1]


def test_domain_reconstructs_from_its_own_codes():
    domain, image = Domain(**SMALL), torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(domain(image), domain.generator(domain.content(image), domain.attribute(image)))


def test_weights_load_into_a_fresh_network_and_give_the_same(inputs, tmp_path):
    net, fresh = CITNet(**SMALL), CITNet(**SMALL)
    torch.save(net.state_dict(), tmp_path / "citnet.pt")
    fresh.load_state_dict(torch.load(tmp_path / "citnet.pt", weights_only=True))
    for ours, theirs in zip(net(*inputs), fresh(*inputs), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(key.endswith("fold") for key in net.state_dict())  # constants are not weights


@pytest.mark.parametrize("size", [(16, 18), (18, 16), (12, 16), (16, 12)])
def test_images_off_the_grid_are_refused(size):
    image, prior = torch.rand(1, 1, *size), torch.randn(1, 3)
    with pytest.raises(ValueError, match="multiples of 4 and >= 16"):
        CITNet(**SMALL)(image, image, prior, prior)


def test_unequal_images_are_refused():
    prior = torch.randn(1, 3)
    with pytest.raises(ValueError, match="must have one shape"):
        CITNet(**SMALL)(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 20), prior, prior)


@pytest.mark.parametrize("name", list(SMALL))
def test_bad_size_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        CITNet(**{**SMALL, name: 0})


def test_both_domains_start_as_one_and_share_nothing():
    """From two different starts the translation may begin, and stay, inverted (docs/stage3.md)."""
    citnet = CITNet(width=4, attribute_channels=2, residual_blocks=1, perceptron_width=8)
    pairs = list(zip(citnet.mr.parameters(), citnet.ct.parameters(), strict=True))
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(citnet.mr(image), citnet.ct(image), rtol=0, atol=0)
    with torch.no_grad():
        next(citnet.mr.parameters()).add_(1.0)
    assert not torch.equal(citnet.mr(image), citnet.ct(image))
