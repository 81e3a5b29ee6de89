# SPDX-License-Identifier: Apache-2.0
"""Eq. 7 against a sum written out, with a different weight on every term."""

import pytest
import torch
from scripts.losses.adversarial import AdversarialLoss
from scripts.losses.data_consistency import DataConsistencyLoss
from scripts.losses.disentanglement import DisentanglementLoss
from scripts.losses.perceptual import PerceptualLoss
from scripts.networks.citnet import Translation

WEIGHTS = {
    "lambda_self": 2.0, "lambda_cycle": 3.0, "lambda_latent": 5.0, "lambda_percep": 0.7, "lambda_consistency": 0.6,
    "lambda_ct": 0.9,
}  # fmt: skip


def phi(image):
    return torch.cat([image**2, image], dim=1)


def thicken(image, n_slices=4, positions=None, condition=None):
    return (image[..., ::2] + image[..., 1::2]) / 2


def build(detach_targets=False, judge_super_resolved=False, **weights):
    return DisentanglementLoss(
        AdversarialLoss("log"),
        PerceptualLoss(phi, instance_norm=False),
        DataConsistencyLoss(thicken, 1),
        **{**WEIGHTS, **weights},
        detach_targets=detach_targets,
        judge_super_resolved=judge_super_resolved,
    )


@pytest.fixture
def case():
    torch.manual_seed(0)
    shapes = [(2, 3, 2, 2)] * 4 + [(2, 4)] * 4 + [(2, 1, 4, 8)] * 6
    return {
        "made": Translation(*(torch.randn(shape).requires_grad_() for shape in shapes)),
        "mr": torch.randn(2, 1, 4, 8).requires_grad_(),
        "ct": torch.randn(2, 1, 4, 8),
        "fake_mr": [torch.randn(2, 1, 2, 2), torch.randn(2, 1, 1, 1)],
        "fake_ct": [torch.randn(2, 1, 2, 2), torch.randn(2, 1, 1, 1)],
        "real_mr": [torch.randn(2, 1, 2, 2).requires_grad_(), torch.randn(2, 1, 1, 1).requires_grad_()],
        "mr_thick": torch.randn(2, 1, 4, 4),
        "mr_told": (torch.arange(8) / 2 - 0.25, torch.rand(2, 4)),
        "ct_restored": torch.randn(2, 1, 4, 8).requires_grad_(),
    }


def naive(c, detach=False):
    """Every term of Eq. 1 to 6 and of the anchors."""
    m, x, y = c["made"], c["mr"], c["ct"]
    target = x.detach() if detach else x

    def l1(a, b):
        return (a - b).abs().mean()

    def fool(logits):
        return sum(torch.log(1 - torch.sigmoid(z)).mean() for z in logits)

    return {
        "adv_mr": fool(c["fake_mr"]),
        "adv_ct": fool(c["fake_ct"]),
        "self_mr": l1(m.mr_self, target),
        "self_ct": l1(m.ct_self, y),
        "cycle_mr": l1(m.mr_cycle, target),
        "cycle_ct": l1(m.ct_cycle, y),
        "latent_content_mr": l1(m.content_mr_again, m.content_mr),
        "latent_content_ct": l1(m.content_ct_again, m.content_ct),
        "latent_attribute_mr": l1(m.attribute_mr_again, m.attribute_mr),
        "latent_attribute_ct": l1(m.attribute_ct_again, m.attribute_ct),
        "percep_mr_to_ct": (phi(m.mr_to_ct) - phi(target)).square().mean(),
        "percep_ct_to_mr": (phi(m.ct_to_mr) - phi(y)).square().mean(),
        "consistency_mr": l1(thicken(x)[..., 1:-1], c["mr_thick"][..., 1:-1]),
        "ct_l1_ct": l1(c["ct_restored"], y),
    }


FACTORS = {"adv": 1, "self": 2, "cycle": 3, "latent": 5, "percep": 0.7, "consistency": 0.6, "ct_l1": 0.9}


def group(name):
    return next(prefix for prefix in FACTORS if name.startswith(prefix + "_"))


@pytest.mark.parametrize("detach", [False, True])
def test_terms_sum_and_gradients(case, detach):
    objective, expected = build(detach)(**case), naive(case, detach)
    assert objective.terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(objective.terms[name], value, msg=name)
    assert objective.weighted.keys() == FACTORS.keys()
    for prefix, factor in FACTORS.items():
        value = factor * sum(value for name, value in expected.items() if group(name) == prefix)
        torch.testing.assert_close(objective.weighted[prefix], value, msg=prefix)
    total = sum(FACTORS[group(name)] * value for name, value in expected.items())
    torch.testing.assert_close(objective.total, total)
    learners = [*case["made"], case["mr"], case["ct_restored"]]
    torch.testing.assert_close(
        torch.autograd.grad(objective.total, learners), torch.autograd.grad(total, learners), atol=1e-5, rtol=1e-4
    )


def test_a_detached_target_learns_from_the_anchor_alone(case):
    objective = build(detach_targets=True)(**case)
    for name, term in objective.weighted.items():
        if not term.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(term, [case["mr"]], retain_graph=True, allow_unused=True)
        assert (gradient is not None) == (name == "consistency"), name


def test_log_d_of_the_super_resolved_image_is_minimised_where_it_is_switched_on(case):
    """Eq. 5 whole: the term is part of ``adv``, with weight 1, and nothing else changes."""
    off, on = build()(**case), build(judge_super_resolved=True)(**case)
    assert on.terms.keys() - off.terms.keys() == {"adv_mr_real"}
    expected = sum(torch.log(torch.sigmoid(z)).mean() for z in case["real_mr"])
    torch.testing.assert_close(on.terms["adv_mr_real"], expected)
    torch.testing.assert_close(on.weighted["adv"], off.weighted["adv"] + expected)
    torch.testing.assert_close(on.total, off.total + expected)
    gradients = torch.autograd.grad(on.total, case["real_mr"])
    assert all((gradient > 0).all() for gradient in gradients)  # a step down makes D_X doubt x~_H


def test_the_terms_of_the_paper_alone(case):
    paper = build(lambda_consistency=0.0, lambda_ct=0.0)(**case)
    assert paper.weighted.keys() == {"adv", "self", "cycle", "latent", "percep"}
    expected = naive(case)
    total = sum(FACTORS[group(k)] * v for k, v in expected.items() if group(k) not in ("consistency", "ct_l1"))
    torch.testing.assert_close(paper.total, total)


def test_terms_without_what_they_need_are_left_out(case):
    assert "percep" not in build(lambda_percep=0.0)(**case).weighted
    assert "consistency" not in build()(**{**case, "mr_thick": None}).weighted
    assert "ct_l1" not in build()(**{**case, "ct_restored": None}).weighted
    bare = DisentanglementLoss(
        AdversarialLoss("log"), None, None, **{**WEIGHTS, "lambda_percep": 0, "lambda_consistency": 0},
        detach_targets=False, judge_super_resolved=False,
    )  # fmt: skip
    assert bare(**case).weighted.keys() == {"adv", "self", "cycle", "latent", "ct_l1"}


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_are_refused_below_zero_and_taken_at_zero(name, case):
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=r"weight of .* must be >= 0"):
            build(**{name: bad})
    off = build(**{name: 0.0})(**case).weighted
    key = "ct_l1" if name == "lambda_ct" else name.removeprefix("lambda_")
    assert off.get(key, torch.zeros(())).item() == 0


def test_a_weight_without_its_loss_is_refused():
    for position, word in ((1, "percep"), (2, "consistency")):
        losses = [AdversarialLoss("log"), PerceptualLoss(phi), DataConsistencyLoss(thicken, 1)]
        losses[position] = None
        with pytest.raises(ValueError, match=f"lambda_{word} must be 0"):
            DisentanglementLoss(
                *losses, **{**WEIGHTS, f"lambda_{word}": 0.5}, detach_targets=False, judge_super_resolved=False
            )
