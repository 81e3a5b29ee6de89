# SPDX-License-Identifier: Apache-2.0
"""Stage 2 by hand: who makes the pair, what the loss is, and what one step does to the weights."""

import pytest
import torch
from monai.engines.utils import IterationEvents
from scripts.training.acquisition import told
from scripts.training.autocast import AutocastInferer
from scripts.training.clip import GradientClipping
from scripts.training.stage2 import InPlanePairs, PseudoPairs, SelfSupervisedTrainer, make_pairs

from tests.training.toys import POSITIONS, Scale


def mean(thin, n_slices, positions, condition):
    """D: mean of two neighbours."""
    assert (n_slices, tuple(positions.tolist()), condition.tolist()) == (2, POSITIONS, [[1.0] * 4])
    return thin.unflatten(-1, (-1, 2)).mean(dim=-1)


def distance(pred, target):
    """L1 of the image, whatever the network says of its error."""
    return (pred[:, :1] - target).abs().mean()


def row(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def told_of(source, number):
    """What a batch of one says of its acquisition."""
    return {f"{source}_positions": torch.tensor([POSITIONS]), f"{source}_condition": torch.full((1, 4), number)}


BATCH = {
    "mr_image": row(1, 3), "mr_label": row(4, 4, 4, 4), "ct_image": row(2, 2), "ct_label": row(5, 5, 5, 5),
    **told_of("mr", 1.0), **told_of("ct", 2.0),
}  # fmt: skip


def pairs(reading, network, average=None):
    return PseudoPairs(reading, mean, network, average if average is not None else Scale(9))


def test_in_plane_pairs_are_those_of_the_data():
    image, target = InPlanePairs()(Scale(2), BATCH)
    assert torch.equal(image, row(1, 3))
    assert torch.equal(target, row(4, 4, 4, 4))


@pytest.mark.parametrize(("reading", "factor"), [("current", 3), ("through", 3), ("frozen", 2), ("ema", 5)])
def test_each_reading_asks_its_own_teacher(reading, factor):
    """The network was 2 when the pairs were made and is 3 now; its average is 5."""
    network, average = Scale(2), Scale(5)
    make = pairs(reading, network, average)
    network.w.data.fill_(3.0)
    image, target = make(network, BATCH)
    assert torch.equal(target, row(*(factor * x for x in (1, 1, 3, 3))))
    assert torch.equal(image, row(factor, 3 * factor))
    assert target.requires_grad == image.requires_grad == (reading == "through")


def test_the_frozen_teacher_is_a_copy_that_does_not_train():
    class Half(Scale):
        def forward(self, *inputs):
            return super().forward(*inputs) / (2 if self.training else 1)

    network = Half(2)
    _, target = pairs("frozen", network)(network, BATCH)
    assert torch.equal(target, row(2, 2, 6, 6))
    assert network.training


@pytest.mark.parametrize(("reading", "gradient"), [("current", 4.0), ("through", 6.0)])
def test_where_the_gradient_flows(reading, gradient):
    """``|F(D(F(x))) - F(x)|`` is ``(w^2 - w) mean(x)``; with a constant pair it is ``w (2 x) - 2 x``. w = 2, mean 2."""
    network = Scale(2)
    image, target = pairs(reading, network)(network, BATCH)
    distance(network(image, *told(BATCH, "mr")), target).backward()
    assert float(network.w.grad) == pytest.approx(gradient)


@pytest.mark.parametrize("reading", ["current", "frozen", "ema"])
def test_targets_are_float32_whatever_the_teacher_computes_in(reading):
    class Coarse(Scale):
        def forward(self, *inputs):
            return super().forward(*inputs).bfloat16()

    assert pairs(reading, Coarse(2), Coarse(2))(Coarse(2), BATCH)[1].dtype == torch.float32


def test_variants_by_name():
    network = Scale(2)
    assert isinstance(make_pairs("inplane", "current", mean, network, network), InPlanePairs)
    made = make_pairs("paper", "ema", mean, network, Scale(5))
    assert float(made(network, BATCH)[1].max()) == 15
    for arguments, message in ((("other", "current"), "stage2_variant must be"), (("paper", "x"), "stage2_reading")):
        with pytest.raises(ValueError, match=message):
            make_pairs(*arguments, mean, network, network)


def trainer(network, iterations=1, anchor_weight=0.5, batches=None, make=None, **options):
    return SelfSupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, epoch_length=iterations,
        train_data_loader=batches or [BATCH] * iterations, network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1), loss_function=distance,
        pairs=make or InPlanePairs(), anchor_weight=anchor_weight, decollate=False, **options,
    )  # fmt: skip


def test_one_step():
    """``mean|1 1 3 3 - 4| = 2``; CT ``|2 - 5| = 3``; ``2 + 0.5 * 3 = 3.5``; the slope is ``-2 - 0.5 * 2 = -3``."""
    network = Scale(1)
    running = trainer(network)
    seen = []
    running.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda e: seen.append(network.w.grad))
    running.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda e: seen.append(float(network.w.grad)))
    running.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda e: seen.append(float(network.w.detach())))
    running.run()
    output = running.state.output
    assert {name: float(output[name].detach()) for name in ("loss_mr", "loss_ct", "loss")} == {
        "loss_mr": 2.0, "loss_ct": 3.0, "loss": 3.5,
    }  # fmt: skip
    assert torch.equal(output["image"], row(1, 3))
    assert torch.equal(output["label"], row(4, 4, 4, 4))
    assert torch.equal(output["pred"][:, :1], row(1, 1, 3, 3))
    assert seen == [None, pytest.approx(-3.0), pytest.approx(1.3)]
    assert float(network.w.detach()) == pytest.approx(1.3)
    assert not network.w.grad  # none is left for the next iteration


def test_without_the_anchor_ct_takes_no_part():
    network = Scale(1)
    running = trainer(network, anchor_weight=0)
    running.run()
    assert float(network.w.detach()) == pytest.approx(1.2)
    assert "loss_ct" not in running.state.output
    assert network.told == (POSITIONS, [[1.0] * 4])
    assert float(running.state.output["loss"].detach()) == 2.0


def test_the_sign_of_the_label_counts():
    network = Scale(1)
    batch = {**BATCH, "mr_label": row(-4, -4, -4, -4)}
    trainer(network, anchor_weight=0, batches=[batch]).run()
    assert float(network.w.detach()) == pytest.approx(0.8)


def test_both_kinds_go_through_the_network_together_and_in_training_mode():
    calls = []

    class Watched(Scale):
        def forward(self, image, *acquisition):
            calls.append((tuple(image.shape), self.training))
            return super().forward(image, *acquisition)

    network = Watched(1).eval()
    trainer(network, inferer=AutocastInferer()).run()
    assert calls == [((2, 1, 1, 2), True)]
    assert network.told == (POSITIONS, [[1.0] * 4, [2.0] * 4])


def test_accumulation_steps_once_with_the_mean_gradient():
    """Slopes -3 and -6 (MR twice as bright and CT too): the mean is -4.5, seen by whatever clips at the second."""
    bright = {key: value * (2 if key.endswith(("image", "label")) else 1) for key, value in BATCH.items()}
    network = Scale(1)
    running = trainer(network, 2, batches=[BATCH, bright], accumulation_steps=2)
    seen = []
    running.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda e: seen.append(float(network.w.grad)))
    running.add_event_handler(
        IterationEvents.MODEL_COMPLETED, lambda e: seen.append(round(float(network.w.detach()), 4))
    )
    running.run()
    assert seen == [pytest.approx(-1.5), 1.0, pytest.approx(-4.5), 1.45]


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_clipping_bounds_what_the_optimiser_sees(accumulation_steps):
    network = Scale(1)
    clipping = GradientClipping(network, max_norm=0.5)
    trainer(network, 2, accumulation_steps=accumulation_steps, train_handlers=[clipping]).run()
    assert float(network.w.detach()) == pytest.approx(1 + 0.05 * (2 // accumulation_steps))


def test_two_iterations_do_not_mix():
    network = Scale(1)
    trainer(network, 2).run()
    assert float(network.w.detach()) == pytest.approx(1.6)
