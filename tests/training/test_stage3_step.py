# SPDX-License-Identifier: Apache-2.0
"""One iteration of stage 3 against Algorithm 1 written out: D step, then the step of everything else."""

import contextlib
import copy
import json
import math

import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines.utils import IterationEvents
from monai.utils.enums import AdversarialIterationEvents
from scripts.losses.adversarial import AdversarialLoss
from scripts.losses.data_consistency import DataConsistencyLoss
from scripts.losses.disentanglement import DisentanglementLoss
from scripts.losses.perceptual import PerceptualLoss
from scripts.losses.translated import TranslatedPairsLoss
from scripts.networks.citnet import CITNet
from scripts.networks.discriminators import DiscriminatorPair
from scripts.networks.rdn import RDN
from scripts.training.stage3 import JointTrainer
from torch import nn
from torch.nn import functional as F

from tests.conftest import BUNDLE

WEIGHTS = {
    "lambda_self": 2.0, "lambda_cycle": 3.0, "lambda_latent": 0.5, "lambda_percep": 0.7, "lambda_consistency": 0.6,
    "lambda_ct": 0.9,
}  # fmt: skip
RATE = 0.05
SCALE = 16.0  # of gradients in float16; the default would overflow and skip the first steps


POSITIONS = (torch.arange(16) + 0.5) / 2 - 0.5  # of two thin slices in each of 8 thick ones
CONDITION = torch.tensor([0.5, 1.0, 0.29, 0.5])


def thicken(image, *_):
    return F.avg_pool2d(image, (1, 2))


def phi(image):
    return torch.cat([image**2, image], dim=1)


class Setting:
    """Tiny networks, an objective and batches; :meth:`train` runs the trainer, :meth:`naive` the paper."""

    def __init__(self, iterations=1, detach_targets=False, judge_super_resolved=False, seed=3, **weights):
        torch.manual_seed(seed)  # one where the naive form in float32 and in float64 agree to 1e-3
        self.network = RDN(scale_factor=2, blocks=1, layers=1, growth=2, features=3)
        self.citnet = CITNet(width=2, attribute_channels=3, residual_blocks=1, perceptron_width=4)
        self.discriminators = DiscriminatorPair(width=2, layers=1, scales=2)
        self.detach_targets, self.judge_super_resolved = detach_targets, judge_super_resolved
        self.weights = {**WEIGHTS, **weights}
        self.objective = DisentanglementLoss(
            AdversarialLoss("log"),
            PerceptualLoss(phi, instance_norm=False),
            DataConsistencyLoss(thicken, 1),
            **self.weights,
            detach_targets=detach_targets,
            judge_super_resolved=judge_super_resolved,
            translated=TranslatedPairsLoss(0.0),
        )
        self.batches = [
            {
                "mr_image": torch.rand(3, 1, 16, 8) * 2 - 1,
                "ct_label": torch.rand(3, 1, 16, 16) * 2 - 1,
                "ct_image": torch.rand(3, 1, 16, 8) * 2 - 1,
                "mr_attribute": torch.randn(3, 3),
                "ct_attribute": torch.randn(3, 3),
                **{f"{source}_positions": POSITIONS.repeat(3, 1) for source in ("mr", "ct")},
                **{f"{source}_condition": CONDITION.repeat(3, 1) for source in ("mr", "ct")},
            }
            for _ in range(iterations)
        ]

    def modules(self):
        return {"srnet": self.network, "citnet": self.citnet, "discriminators": self.discriminators}

    def trainer(self, **options):
        generators = [*self.network.parameters(), *self.citnet.parameters()]
        return JointTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            epoch_length=len(self.batches),
            train_data_loader=self.batches,
            network=self.network,
            citnet=self.citnet,
            discriminators=self.discriminators,
            optimizer=torch.optim.SGD(generators, RATE),
            discriminator_optimizer=torch.optim.SGD(self.discriminators.parameters(), RATE),
            loss_function=self.objective,
            decollate=False,
            **options,
        )

    def train(self, **options):
        """Outputs and, per iteration, the gradients in front of each optimiser."""
        trainer, outputs, before_d, before_g = self.trainer(**options), [], [], []
        trainer.gradient_scaler.load_state_dict({**trainer.gradient_scaler.state_dict(), "scale": SCALE})
        trainer.add_event_handler(
            AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED, lambda: before_d.append(gradients(self))
        )
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda: before_g.append(gradients(self)))
        trainer.add_event_handler(
            IterationEvents.MODEL_COMPLETED, lambda engine: outputs.append(dict(engine.state.output))
        )
        trainer.run()
        return outputs, before_d, before_g

    def fake_mr(self, x, batch, own):
        """x', made with the draw of the prior or with the attribute code of x~_H."""
        attribute = self.citnet.mr.attribute(x) if own else batch["mr_attribute"]
        return self.citnet.mr.generator(self.citnet.ct.content(batch["ct_label"]), attribute), attribute

    def discriminator_loss(self, batch, own=False):
        """-(Eq. 5 + Eq. 6), in probabilities; generators and SRNet are constants here."""
        with torch.no_grad():
            x, y = self.network(batch["mr_image"]), batch["ct_label"]
            fake_x, _ = self.fake_mr(x, batch, own)
            fake_y = self.citnet.ct.generator(self.citnet.mr.content(x), batch["ct_attribute"])
        total = torch.zeros(())
        for judge, real, fake in ((self.discriminators.mr, x, fake_x), (self.discriminators.ct, y, fake_y)):
            for z in judge(real):
                total = total - torch.log(torch.sigmoid(z)).mean()
            for z in judge(fake):
                total = total - torch.log(1 - torch.sigmoid(z)).mean()
        return total

    def terms(self, batch, own=False):
        """Every summand of Eq. 7 and of the anchors, before weighting, each network called once per symbol."""
        net, w = self.citnet, batch
        x, y = self.network(w["mr_image"]), w["ct_label"]
        target = x.detach() if self.detach_targets else x
        fake_x, attribute_x = self.fake_mr(x, w, own)
        fake_y = net.ct.generator(net.mr.content(x), w["ct_attribute"])

        def l1(a, b):
            return (a - b).abs().mean()

        def fool(logits):
            return sum(torch.log(1 - torch.sigmoid(z)).mean() for z in logits)

        real = sum(torch.log(torch.sigmoid(z)).mean() for z in self.discriminators.mr(x))
        return {
            **({"adv_mr_real": real} if self.judge_super_resolved else {}),
            "adv_mr": fool(self.discriminators.mr(fake_x)),
            "adv_ct": fool(self.discriminators.ct(fake_y)),
            "self_mr": l1(net.mr.generator(net.mr.content(x), net.mr.attribute(x)), target),
            "self_ct": l1(net.ct.generator(net.ct.content(y), net.ct.attribute(y)), y),
            "cycle_mr": l1(net.mr.generator(net.ct.content(fake_y), net.mr.attribute(x)), target),
            "cycle_ct": l1(net.ct.generator(net.mr.content(fake_x), net.ct.attribute(y)), y),
            "latent_content_mr": l1(net.ct.content(fake_y), net.mr.content(x)),
            "latent_content_ct": l1(net.mr.content(fake_x), net.ct.content(y)),
            "latent_attribute_mr": l1(net.mr.attribute(fake_x), attribute_x),
            "latent_attribute_ct": l1(net.ct.attribute(fake_y), w["ct_attribute"]),
            "percep_mr_to_ct": (phi(fake_y) - phi(target)).square().mean(),
            "percep_ct_to_mr": (phi(fake_x) - phi(y)).square().mean(),
            "consistency_mr": l1(thicken(x)[..., 1:-1], w["mr_image"][..., 1:-1]),
            "ct_l1_ct": l1(self.network(w["ct_image"]), y),
        }

    def total(self, terms):
        factors = {"adv": 1.0, **{name.removeprefix("lambda_"): weight for name, weight in self.weights.items()}}
        factors["ct_l1"] = factors.pop("ct")
        return sum(factors[equation(name)] * value for name, value in terms.items())


def equation(name):
    """``latent_content_mr`` belongs to the weight ``latent``."""
    return "ct_l1" if name.startswith("ct_l1") else name.split("_")[0]


def gradients(setting):
    named = parameters(setting.modules())
    return {name: None if p.grad is None else p.grad.clone() for name, p in named.items()}


def parameters(modules):
    return {f"{owner}.{name}": p for owner, module in modules.items() for name, p in module.named_parameters()}


def gradient(modules, loss):
    named = parameters(modules)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def descend(modules, found):
    with torch.no_grad():
        for name, parameter in parameters(modules).items():
            parameter -= RATE * found[name]


def step(modules, loss):
    """Plain gradient descent; the gradients."""
    found = gradient(modules, loss)
    descend(modules, found)
    return found


def generators(setting):
    return {name: module for name, module in setting.modules().items() if name != "discriminators"}


def close(ours, naive, tolerance=5e-3):
    """Error over size of each tensor; kinks of ReLU and L1 turn rounding into a few parts in a thousand."""
    for name, value in naive.items():
        assert ours[name] is not None, name
        assert (ours[name] - value).norm() <= tolerance * value.norm() + 1e-6, name


def same_weights(a, b):
    for name, module in a.modules().items():
        close(module.state_dict(), b.modules()[name].state_dict(), 1e-3)


@pytest.mark.parametrize(
    ("detach_targets", "judge_super_resolved", "attribute", "own"),
    [
        (False, False, "prior", (False, False)),
        (True, False, "prior", (False, False)),
        (False, True, "prior", (False, False)),
        (False, True, "own", (True, True)),
        (True, False, "both", (False, True)),
    ],
)
def test_two_iterations_equal_algorithm_1(detach_targets, judge_super_resolved, attribute, own):
    ours = Setting(iterations=2, detach_targets=detach_targets, judge_super_resolved=judge_super_resolved)
    paper = copy.deepcopy(ours)
    outputs, before_d, before_g = ours.train(ct_to_mr_attribute=attribute)
    for index, batch in enumerate(paper.batches):
        loss_d = paper.discriminator_loss(batch, own[index])
        gradient_d = step({"discriminators": paper.discriminators}, loss_d)
        terms = paper.terms(batch, own[index])  # judged by the discriminators that have just learnt
        total = paper.total(terms)
        gradient_g = step(generators(paper), total)
        torch.testing.assert_close(outputs[index]["loss_discriminators"], loss_d.detach())
        torch.testing.assert_close(outputs[index]["loss"], total.detach(), atol=1e-5, rtol=1e-4)
        close(outputs[index], {name: term.detach() for name, term in terms.items()}, 1e-4)
        close(before_d[index], gradient_d)
        close(before_g[index], gradient_g)
    same_weights(ours, paper)


def test_each_player_learns_in_its_own_step_only():
    ours = Setting(iterations=2)
    _, before_d, before_g = ours.train()
    for found in before_d:
        assert all((gradient is not None) == name.startswith("discriminators") for name, gradient in found.items())
    for found in before_g:
        assert all((gradient is None) == name.startswith("discriminators") for name, gradient in found.items())
    assert all(gradient is None for gradient in gradients(ours).values())
    assert all(p.requires_grad for p in ours.discriminators.parameters())


def test_accumulation_takes_the_mean_and_steps_discriminators_first():
    ours = Setting(iterations=2)
    paper = copy.deepcopy(ours)
    outputs, before_d, before_g = ours.train(accumulation_steps=2)
    first, second = paper.batches
    loss = paper.total(paper.terms(first))
    early = gradient(generators(paper), loss)
    loss_d = (paper.discriminator_loss(first) + paper.discriminator_loss(second)) / 2
    gradient_d = step({"discriminators": paper.discriminators}, loss_d)
    late = gradient(generators(paper), paper.total(paper.terms(second)))
    mean = {name: (early[name] + late[name]) / 2 for name in early}
    descend(generators(paper), mean)
    torch.testing.assert_close(outputs[0]["loss"], loss.detach(), atol=1e-5, rtol=1e-4)
    close(before_d[1], gradient_d)
    close(before_g[1], mean)
    same_weights(ours, paper)


REACHES_SRNET = {
    "adv_mr_real": True, "adv_mr": False, "adv_ct": True,
    "self_mr": True, "self_ct": False, "cycle_mr": True, "cycle_ct": False,
    "latent_content_mr": True, "latent_content_ct": False, "latent_attribute_mr": False, "latent_attribute_ct": True,
    "percep_mr_to_ct": True, "percep_ct_to_mr": False, "consistency_mr": True, "ct_l1_ct": True,
}  # fmt: skip


@pytest.mark.parametrize("detach_targets", [False, True])
def test_srnet_learns_from_the_terms_that_hold_its_image_and_from_no_other(detach_targets):
    setting = Setting(detach_targets=detach_targets, judge_super_resolved=True)
    batch = setting.batches[0]
    mr, restored = setting.network(torch.cat([batch["mr_image"], batch["ct_image"]])).chunk(2)
    made = setting.citnet(mr, batch["ct_label"], batch["mr_attribute"], batch["ct_attribute"])
    fake_mr, fake_ct = setting.discriminators(made.ct_to_mr, made.mr_to_ct)
    found = setting.objective(
        made, mr, batch["ct_label"], fake_mr, fake_ct, setting.discriminators.mr(mr), batch["mr_image"],
        (POSITIONS, batch["mr_condition"]), restored,
    ).terms  # fmt: skip
    expected = setting.terms(batch)
    assert found.keys() == REACHES_SRNET.keys()
    learners = list(setting.network.parameters())
    for name, reaches in REACHES_SRNET.items():
        ours, naive = (
            torch.autograd.grad(terms[name], learners, retain_graph=True, allow_unused=True)
            for terms in (found, expected)
        )
        if reaches:
            assert sum(g.abs().sum() for g in ours) > 0, name
            torch.testing.assert_close(ours, naive, atol=2e-5, rtol=1e-3)
        else:  # batched with x~_H's, so autograd may answer with zeros
            assert all(g is None or not g.any() for g in ours), name
            assert all(g is None or not g.any() for g in naive), name


def test_each_network_runs_as_seldom_as_it_can():
    setting, runs = Setting(), []
    for name, module in setting.modules().items():
        module.register_forward_hook(lambda module, args, result, name=name: runs.append((name, len(args[0]))))
    setting.train()
    # SRNet: x_L and D(y_H) as one batch; discriminators: real and translated as one batch, then translated alone
    assert runs == [("srnet", 6), ("citnet", 3), ("discriminators", 6), ("discriminators", 3)]
    setting, sizes = Setting(judge_super_resolved=True), []
    for judge in (setting.discriminators.mr, setting.discriminators.ct):
        judge.register_forward_hook(lambda module, args, result: sizes.append(len(args[0])))
    setting.train()
    assert sizes == [6, 6, 6, 3]  # in the generators' step, D_X judges x~_H in the same batch


def test_without_the_ct_anchor_srnet_sees_the_mr_alone():
    setting, sizes = Setting(lambda_ct=0.0), []
    setting.network.register_forward_hook(lambda module, args, result: sizes.append(len(args[0])))
    outputs, _, _ = setting.train()
    assert sizes == [3]
    assert "ct_l1_ct" not in outputs[0]


class Twice(nn.Module):
    """An SRNet that notes what it is told: each thick slice twice, and a second channel, in low precision."""

    def __init__(self):
        super().__init__()
        self.gain, self.heard = nn.Parameter(torch.ones(())), []

    def forward(self, thick, positions, condition):
        self.heard.append((positions, condition))
        thin = self.gain * thick.repeat_interleave(2, dim=-1)
        return torch.cat([thin, thin + 9], dim=1).bfloat16()


@pytest.mark.parametrize(("weights", "sources"), [({}, ("mr", "ct")), ({"lambda_ct": 0.0}, ("mr",))])
def test_srnet_is_told_of_each_patch_and_its_first_channel_counts(weights, sources):
    setting = Setting(**weights)
    setting.network = Twice()
    (batch,) = setting.batches
    batch["ct_condition"] = batch["ct_condition"] + 1
    outputs, _, _ = setting.train()
    ((positions, condition),) = setting.network.heard
    assert torch.equal(positions, POSITIONS)
    assert torch.equal(condition, torch.cat([batch[f"{source}_condition"] for source in sources]))
    expected = batch["mr_image"].repeat_interleave(2, dim=-1).bfloat16().float()
    torch.testing.assert_close(outputs[0]["pred"], expected, rtol=0, atol=0)  # float32 again


def test_translated_pairs_teach_srnet_alone_and_after_the_warmup():
    without, ours = Setting(iterations=2), Setting(iterations=2, lambda_translated=4.0)
    start = copy.deepcopy(ours)
    _, _, plain = without.train(warmup_iterations=1)
    outputs, _, found = ours.train(warmup_iterations=1, operator=thicken)
    assert "translated_mr" not in outputs[0]
    for name, value in found[0].items():
        torch.testing.assert_close(value, plain[0][name], msg=name)
    # up to the second iteration both have done the same; SRNet still is what it was at the start
    batch, net = ours.batches[1], one_step_later(start)
    with torch.no_grad():
        x = start.network(batch["mr_image"])
        target = net.mr.generator(net.ct.content(batch["ct_label"]), net.mr.attribute(x))
    expected = (start.network(thicken(target)) - target).abs().mean()
    torch.testing.assert_close(outputs[1]["translated_mr"], expected.detach(), atol=1e-5, rtol=1e-4)
    pull = gradient({"srnet": start.network}, 4 * expected)
    for name, value in plain[1].items():
        if name.startswith("citnet"):
            torch.testing.assert_close(found[1][name], value, msg=name)
    close({name: found[1][name] - plain[1][name] for name in pull}, pull, 2e-2)


def one_step_later(start):
    """CITNet after the first iteration of the warm-up."""
    once = copy.deepcopy(start)
    once.batches = once.batches[:1]
    once.train(warmup_iterations=1, operator=thicken)
    return once.citnet


def test_translated_pairs_need_an_operator():
    with pytest.raises(ValueError, match="operator must be given where lambda_translated is > 0"):
        Setting(lambda_translated=1.0).train()


def test_warmup_freezes_srnet_for_so_many_iterations():
    setting = Setting(iterations=3)
    sizes = []
    setting.network.register_forward_hook(lambda module, args, result: sizes.append(len(args[0])))
    outputs, _, before_g = setting.train(warmup_iterations=2)
    for index, learns in enumerate((False, False, True)):
        assert ("ct_l1_ct" in outputs[index]) == learns
        for name, gradient in before_g[index].items():
            if not name.startswith("discriminators"):
                assert (gradient is not None) == (learns or name.startswith("citnet")), name
    assert sizes == [3, 3, 6]


def test_events_come_in_order_and_outputs_hold_no_graph():
    setting, seen, weighted = Setting(), [], []
    trainer = setting.trainer()
    step_events = [
        IterationEvents.FORWARD_COMPLETED,
        AdversarialIterationEvents.DISCRIMINATOR_LOSS_COMPLETED,
        AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED,
        AdversarialIterationEvents.DISCRIMINATOR_MODEL_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    ]
    for event in step_events:
        trainer.add_event_handler(event, lambda engine, event=event: seen.append(event))
    trainer.add_event_handler(
        IterationEvents.LOSS_COMPLETED, lambda engine: weighted.append(dict(engine.state.output["weighted"]))
    )
    trainer.run()
    assert seen == step_events
    assert all(term.grad_fn is not None for term in weighted[0].values())
    output = trainer.state.output
    assert "weighted" not in output
    tensors = [*output["translation"], *(value for value in output.values() if isinstance(value, torch.Tensor))]
    assert len(tensors) == 14 + 14 + 6  # translation; terms; loss, loss_discriminators, two accuracies, pred, ct
    assert not any(tensor.requires_grad for tensor in tensors)


def test_outputs_are_the_images_and_the_share_judged_rightly():
    setting = Setting()
    batch, before = setting.batches[0], copy.deepcopy(setting)
    for module in setting.modules().values():
        module.eval()
    outputs, _, _ = setting.train()
    assert all(module.training for module in setting.modules().values())
    with torch.no_grad():
        x, y = before.network(batch["mr_image"]), batch["ct_label"]
        made = before.citnet(x, y, batch["mr_attribute"], batch["ct_attribute"])
        torch.testing.assert_close(outputs[0]["pred"], x)
        assert torch.equal(outputs[0]["ct"], y)
        torch.testing.assert_close(tuple(outputs[0]["translation"]), tuple(made))
        for name, judge, real, fake in (
            ("accuracy_mr", before.discriminators.mr, x, made.ct_to_mr),
            ("accuracy_ct", before.discriminators.ct, y, made.mr_to_ct),
        ):
            right = [z > 0 for z in judge(real)] + [z < 0 for z in judge(fake)]
            share = sum(r.sum().item() for r in right) / sum(r.numel() for r in right)
            assert outputs[0][name].item() == pytest.approx(share)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_stays_close_and_losses_are_float32(precision):
    start, full, low = Setting(), Setting(), Setting()
    outputs, before_d, before_g = full.train()
    dtypes = []
    low.citnet.mr.generator.image[-2].register_forward_hook(lambda module, args, result: dtypes.append(result.dtype))
    low_outputs, low_d, low_g = low.train(autocast=precision)
    assert set(dtypes) == {getattr(torch, precision)}
    assert {low_outputs[0][name].dtype for name in ("pred", "ct")} == {torch.float32}
    assert {image.dtype for image in low_outputs[0]["translation"]} == {torch.float32}
    for name, value in outputs[0].items():
        if isinstance(value, torch.Tensor) and value.ndim == 0:
            assert low_outputs[0][name].dtype == torch.float32, name
            torch.testing.assert_close(low_outputs[0][name], value, atol=0.1, rtol=0.05)
    # Through normalisations and kinks rounding moves gradients of tiny networks by up to a half; what is looked for, a
    # loss not scaled or a gradient not unscaled, moves them by SCALE. Discriminators have no normalisation.
    for ours, theirs, expected, tolerance in (
        (low_d, before_d, SCALE if precision == "float16" else 1, 0.02),
        (low_g, before_g, 1, 0.6),  # unscaled before handlers see them
    ):
        norms = [torch.stack([g.norm() for g in found[0].values() if g is not None]).norm() for found in (ours, theirs)]
        assert norms[0] / norms[1] == pytest.approx(expected, rel=tolerance)
    for name, module in start.modules().items():
        moved = [
            torch.cat(
                [(p - q).detach().flatten() for p, q in zip(m.parameters(), module.parameters(), strict=True)]
            ).norm()
            for m in (low.modules()[name], full.modules()[name])
        ]
        assert moved[0] / moved[1] == pytest.approx(1, rel=0.02 if name == "discriminators" else 0.6), name


def test_an_overflow_in_float16_skips_the_step_and_halves_the_scale():
    start, setting = Setting(), Setting()
    trainer = setting.trainer(autocast="float16")
    trainer.gradient_scaler.load_state_dict({**trainer.gradient_scaler.state_dict(), "scale": 2.0**120})
    trainer.run()
    assert trainer.gradient_scaler.get_scale() == 2.0**119
    same_weights(setting, start)


class Wrapped(nn.Module):
    """Stands for DistributedDataParallel: notes when it is called and when it is told not to talk."""

    def __init__(self, name, module, notes):
        super().__init__()
        self.name, self.module, self.notes = name, module, notes

    def forward(self, *args):
        self.notes.append(self.name)
        return self.module(*args)

    @contextlib.contextmanager
    def no_sync(self):
        self.notes.append(f"quiet {self.name}")
        yield
        self.notes.append(f"loud {self.name}")


def test_processes_talk_at_optimiser_steps_only(monkeypatch):
    """The discriminators' wrapper is not called in the generators' step, where they do not learn."""
    monkeypatch.setattr("scripts.training.stage3.DistributedDataParallel", Wrapped)
    setting, plain, notes = Setting(iterations=2), Setting(iterations=2), []
    trainer = setting.trainer(accumulation_steps=2)
    trainer.network, trainer.citnet, trainer.discriminators = (
        Wrapped(name, module, notes) for name, module in setting.modules().items()
    )
    trainer.run()
    names = ["srnet", "citnet", "discriminators"]
    quiet, loud = [f"quiet {name}" for name in names], [f"loud {name}" for name in reversed(names)]
    assert notes == [*quiet, *names, *loud, *names]
    plain.train(accumulation_steps=2)
    same_weights(setting, plain)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"autocast": "int8"}, "autocast must be"),
        ({"warmup_iterations": -1}, "warmup_iterations must be"),
        ({"accumulation_steps": 0}, "accumulation_steps. must be"),
        ({"ct_to_mr_attribute": "mine"}, "ct_to_mr_attribute must be 'prior', 'own' or 'both', got 'mine'"),
    ],
)
def test_bad_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Setting().trainer(**options)


def test_the_literal_term_alone_teaches_srnet_to_look_translated():
    """One step down ``log D_X(x~_H)`` with D_X as it is: D_X believes x~_H less than before."""
    setting = Setting(judge_super_resolved=True)
    batch = setting.batches[0]

    def belief():
        return sum(torch.sigmoid(z).mean() for z in setting.discriminators.mr(setting.network(batch["mr_image"])))

    before = belief().item()
    step({"srnet": setting.network}, setting.terms(batch)["adv_mr_real"])
    assert belief().item() < before


def test_the_weights_in_the_config_are_the_papers():
    """Implementation details: lambda_1 = 10 for L_self and L_cycle, lambda_2 = lambda_3 = 1; Eq. 5 and 6 are logs."""
    config = json.loads((BUNDLE / "configs" / "train_stage3.json").read_text())
    paper = {"lambda_self": 10, "lambda_cycle": 10, "lambda_latent": 1, "lambda_percep": 1, "adversarial_form": "log"}
    assert {name: config[name] for name in paper} == paper
    anchors = {
        "lambda_consistency": 20, "lambda_ct": 20, "detach_targets": True, "srnet_rate_factor": 0.1,
        "judge_super_resolved": False, "ct_to_mr_attribute": "prior",
    }  # fmt: skip
    assert {name: config[name] for name in anchors} == anchors


def test_the_papers_variant_is_what_the_paper_says_whatever_came_before():
    """Eq. 1 to 7, Algorithm 1 and the implementation details, of a size file's settings too."""
    recipe = {"learning_rate": 5e-4, "batch_size": 4, "max_gradient_norm": 0.1, "ema_decay": 0.9, "lr_gamma": 0.5}
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("common.json", "train_stage3.json")])
    parser.update(recipe)
    parser.update(json.loads((BUNDLE / "configs" / "stage3_paper.json").read_text()))
    said = {
        "adversarial_form": "log",  # Eq. 5, 6
        "judge_super_resolved": True,  # Eq. 5, its first term
        "ct_to_mr_attribute": "prior",  # Eq. 2, 3: x' is made with A'_x
        "perceptual_backbone": "vgg16", "perceptual_instance_norm": False,  # Eq. 4
        "lambda_self": 10, "lambda_cycle": 10, "lambda_latent": 1, "lambda_percep": 1,  # Eq. 7
        "lambda_consistency": 0, "lambda_ct": 0, "detach_targets": False,  # nothing else in Eq. 7
        "warmup_iterations": 0, "srnet_rate_factor": 1, "max_gradient_norm": math.inf, "ema_decay": 0,  # Algorithm 1
        "stage_iterations": 800_000,  # 2T to 10T, T = 100,000
        "learning_rate": 1e-4, "lr_gamma": 0.2, "lr_step_iterations": 200_000, "batch_size": 1,
        "autocast": None, "accumulation_steps": 1,
    }  # fmt: skip
    assert {name: parser.get_parsed_content(name) for name in said} == said
