# SPDX-License-Identifier: Apache-2.0
"""SRNet with a guide: what it starts as, and that it keeps to SRNet where nothing is known of the CT."""

import numpy as np
import pytest
import torch
from scripts.networks.guided import GuidedSRNet, explained_detail, through_slices
from scripts.networks.srnet import SRNet
from scripts.training.weights import load_weights, save_weights

from tests.conftest import TINY_GUIDE, TINY_NETWORK, told

POSITIONS, CONDITION = told(6, 4)


@pytest.fixture
def pair():
    """SRNet, and the guided network with the same weights."""
    torch.manual_seed(0)
    plain, guided = SRNet(**TINY_NETWORK).eval(), GuidedSRNet(**TINY_NETWORK, **TINY_GUIDE).eval()
    torch.nn.init.normal_(plain.modulation[2].weight, std=0.1)
    guided.load_state_dict({**guided.state_dict(), **plain.state_dict()})
    return plain, guided


def shaken(guided):
    """As after some training."""
    torch.nn.init.normal_(guided.guidance[-1].weight, std=0.1)
    return guided


def guide_of(known):
    guide = torch.rand(2, 2, 12, 24) * 2 - 1
    guide[:, 1] = known
    return guide


def test_a_fresh_guided_network_is_srnet_bit_for_bit(pair):
    plain, guided = pair
    image = torch.rand(2, 1, 12, 6)
    expected = plain(image, POSITIONS, CONDITION)
    for guide in (None, guide_of(0), guide_of(1)):
        assert torch.equal(guided(image, POSITIONS, CONDITION, guide), expected)
    assert torch.equal(guided(image), plain(image))


def test_where_nothing_is_known_it_stays_srnet_bit_for_bit(pair):
    plain, guided = pair
    shaken(guided)
    image = torch.rand(2, 1, 12, 6)
    expected = plain(image, POSITIONS, CONDITION)
    assert torch.equal(guided(image, POSITIONS, CONDITION, guide_of(0)), expected)
    known = torch.zeros(12, 24)
    known[:, :10] = 1
    found = guided(image, POSITIONS, CONDITION, guide_of(known))
    assert (found - expected)[:, 0, :, :10].abs().mean() > 1e-3
    assert torch.equal(found[..., 10:], expected[..., 10:])
    assert torch.equal(found[:, 1], expected[:, 1])  # the expected error


def test_the_guide_is_seen_through_its_windows(pair):
    """Beyond the ends of all windows CT values are alike."""
    _, guided = pair
    shaken(guided)
    guided.windows = [(-0.2, 0.2)]
    guided.guidance[0] = torch.nn.Conv2d(1 + 2 + 4, 4, kernel_size=3, padding=1)
    guided.guidance[-1] = torch.nn.Conv2d(4, 2, kernel_size=3, padding=1)
    image, inside = torch.rand(2, 1, 12, 6), guide_of(1)
    bone = torch.rand(inside[:, 0].shape) > 0.5
    inside[:, 0] = torch.where(bone, 0.2, -0.1)
    outside = inside.clone()
    outside[:, 0] = torch.where(bone, 0.9, -0.1)
    other = inside.clone()
    other[:, 0] = torch.where(bone, 0.1, -0.1)
    run = lambda guide: guided(image, POSITIONS, CONDITION, guide)  # noqa: E731
    assert torch.equal(run(inside), run(outside))
    assert not torch.equal(run(inside), run(other))


def test_weights_of_srnet_start_it_only_where_that_is_asked_for(tmp_path, pair):
    plain, guided = pair
    save_weights(plain, tmp_path / "plain.pt")
    fresh = GuidedSRNet(**TINY_NETWORK, **TINY_GUIDE)
    with pytest.raises(ValueError, match="bare state dict of GuidedSRNet"):
        load_weights(fresh, str(tmp_path / "plain.pt"))
    load_weights(fresh, str(tmp_path / "plain.pt"), trained="guidance.")
    assert torch.equal(fresh.shallow_1.weight, plain.shallow_1.weight)
    assert {n.split(".")[0] for n, p in fresh.named_parameters() if p.requires_grad} == {"guidance"}
    save_weights(shaken(guided), tmp_path / "guided.pt")
    load_weights(fresh, str(tmp_path / "guided.pt"), trained="guidance.")
    assert torch.equal(fresh.guidance[-1].weight, guided.guidance[-1].weight)
    torch.save({k: v for k, v in guided.state_dict().items() if k != "guidance.0.weight"}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="bare state dict"):
        load_weights(fresh, str(tmp_path / "part.pt"), trained="guidance.")


def test_the_slices_of_an_image_are_means_of_what_is_known():
    thin = torch.arange(24.0).expand(1, 1, 2, 24)
    known = torch.ones(1, 1, 2, 24)
    known[..., 12:] = 0
    slices = through_slices(thin, known, 6, POSITIONS, torch.tensor([0.2]))
    # slices of four, by hand: weights exp(-x^2 / 2) at x = (i - 1.5) / 4 / 0.2
    x = (np.arange(-8, 24) - 1.5) / 0.8
    weights = np.exp(-0.5 * x**2)
    for k in range(6):
        own = np.array([weights[8 + i - 4 * k] if 0 <= 8 + i - 4 * k < 32 else 0 for i in range(12)])
        expected = (own * np.arange(12)).sum() / (own.sum() + 1e-6)
        assert float(slices[0, 0, 1, k]) == pytest.approx(expected, abs=0.02), k


def test_detail_that_a_linear_function_explains_is_found():
    """An image that is 3 CT - 2 inside, seen blurred: the detail is what the blur took, three times."""
    torch.manual_seed(0)
    sharp = torch.rand(1, 1, 20, 24)
    blurred = torch.nn.functional.avg_pool2d(sharp, (1, 5), 1, (0, 2), count_include_pad=False)
    other = torch.rand(1, 1, 20, 24)
    detail, residual = explained_detail(3 * blurred - 2, sharp, blurred, 7, 1e-9)
    torch.testing.assert_close(detail, 3 * (sharp - blurred), atol=1e-3, rtol=0)
    assert residual.abs().max() < 1e-3
    both = explained_detail(3 * blurred - 2, torch.cat([sharp, other], 1), torch.cat([blurred, other], 1), 7, 1e-9)[0]
    torch.testing.assert_close(both, detail, atol=5e-3, rtol=0)
    nothing, residual = explained_detail(torch.ones_like(sharp), sharp, blurred, 7, 1e-3)
    assert nothing.abs().max() < 1e-6


@pytest.mark.parametrize(
    "wrong", [{"guide_blocks": 0}, {"guide_windows": []}, {"guide_windows": [[0.2, 0.2]]}, {"guide_sides": [4]}]
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GuidedSRNet(**TINY_NETWORK, **{**TINY_GUIDE, **wrong})
