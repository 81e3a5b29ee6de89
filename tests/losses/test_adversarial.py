# SPDX-License-Identifier: Apache-2.0
"""Eq. 5 and 6 against their formulas in probabilities, per scale and per patch."""

import math

import pytest
import torch
from scripts.losses.adversarial import ADVERSARIAL_FORMS, AdversarialLoss

REAL = [torch.tensor([[0.3, -1.2], [2.0, 0.1]]), torch.tensor([0.7])]
FAKE = [torch.tensor([[-0.4, 0.9], [0.2, -2.0]]), torch.tensor([0.6])]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def probability(z):
    return 1 / (1 + math.exp(-z))


def naive(form, player):
    total = 0.0
    for real, fake in zip(REAL, FAKE, strict=True):
        r, f = real.flatten().tolist(), fake.flatten().tolist()
        if player == "discriminator" and form == "least_squares":
            total += mean((z - 1) ** 2 for z in r) + mean(z**2 for z in f)
        elif player == "discriminator":
            total -= mean(math.log(probability(z)) for z in r) + mean(math.log(1 - probability(z)) for z in f)
        elif form == "log":
            total += mean(math.log(1 - probability(z)) for z in f)
        elif form == "non_saturating":
            total -= mean(math.log(probability(z)) for z in f)
        else:
            total += mean((z - 1) ** 2 for z in f)
    return total


@pytest.mark.parametrize("form", ADVERSARIAL_FORMS)
def test_both_players_against_the_formula(form):
    loss = AdversarialLoss(form)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(naive(form, "discriminator"), rel=1e-5)
    assert loss.generator(FAKE).item() == pytest.approx(naive(form, "generator"), rel=1e-5)


def test_the_real_images_in_the_loss_of_the_network_that_makes_them():
    """``log D_X(x~_H)`` of Eq. 5 by hand; the other forms want real images to be judged as translated ones should be.

    The scales are {0.3, -1.2, 2.0, 0.1} and {0.7}; log D(2.0) = log(1 / (1 + e^-2)) = -0.1269.
    """
    log_d = [-0.5544, -1.4633, -0.1269, -0.6444]
    assert AdversarialLoss("log").generator_real(REAL).item() == pytest.approx(sum(log_d) / 4 - 0.4032, abs=1e-4)
    log_not_d = [-0.8544, -0.2633, -2.1269, -0.7444]
    expected = -sum(log_not_d) / 4 + 1.1032
    assert AdversarialLoss("non_saturating").generator_real(REAL).item() == pytest.approx(expected, abs=1e-4)
    expected = (0.09 + 1.44 + 4.0 + 0.01) / 4 + 0.49
    assert AdversarialLoss("least_squares").generator_real(REAL).item() == pytest.approx(expected, abs=1e-5)


def test_minimising_log_d_of_real_images_never_ends():
    """Its slope is 1 - D: small where D_X is sure that x~_H is real, near 1 where x~_H looks translated already."""
    for z, slope in ((2.0, 0.1192), (0.0, 0.5), (-2.0, 0.8808), (-50.0, 1.0)):
        logits = torch.tensor([z], requires_grad=True)
        AdversarialLoss("log").generator_real([logits]).backward()
        assert logits.grad.item() == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("form", ADVERSARIAL_FORMS)
def test_each_player_pushes_its_way(form):
    """The discriminator wants high logits for real and low ones for fake images, the generator high ones for fake."""
    loss = AdversarialLoss(form)
    real, fake = torch.tensor([0.2], requires_grad=True), torch.tensor([0.3], requires_grad=True)
    loss.discriminator([real], [fake]).backward()
    assert real.grad < 0 < fake.grad
    fake.grad = None
    loss.generator([fake]).backward()
    assert fake.grad < 0


@pytest.mark.parametrize("form", ["log", "non_saturating"])
def test_logs_do_not_overflow(form):
    loss = AdversarialLoss(form)
    for z in (-1e4, 1e4):
        logits = torch.tensor([z], requires_grad=True)
        total = loss.discriminator([logits], [-logits]) + loss.generator([logits]) + loss.generator_real([logits])
        total.backward()
        assert total.isfinite()
        assert logits.grad.isfinite()


def test_accuracy_is_the_share_of_patches_judged_rightly():
    assert AdversarialLoss("log").accuracy(REAL, FAKE).item() == pytest.approx(6 / 10)
    # with targets 1 and 0 the border is 0.5: 2.0 and 0.7 of the real patches, -0.4, 0.2 and -2.0 of the others
    assert AdversarialLoss("least_squares").accuracy(REAL, FAKE).item() == pytest.approx(5 / 10)
    # a logit on the border is no judgement
    for form, border in (("log", 0.0), ("least_squares", 0.5)):
        undecided = [torch.tensor([border])]
        assert AdversarialLoss(form).accuracy(undecided, undecided).item() == 0


def test_scales_must_match():
    for form in ("log", "least_squares"):
        with pytest.raises(ValueError, match="zip"):
            AdversarialLoss(form).discriminator(REAL, FAKE[:1])


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"adversarial_form must be one of .*, got 'hinge'"):
        AdversarialLoss("hinge")
