# SPDX-License-Identifier: Apache-2.0
"""Average, clipping, precision, metric and budget by hand."""

import math
import time

import pytest
import torch
from monai.engines.utils import IterationEvents
from scripts.training import budget
from scripts.training.autocast import AutocastInferer
from scripts.training.batches import IterationBatches
from scripts.training.clip import GradientClipping
from scripts.training.ema import MovingAverage
from scripts.training.handlers import InOrder
from scripts.training.metrics import PSNRGain
from torch import nn

from tests.training.toys import POSITIONS, Events, Scale, engine, run


def test_the_average_follows_a_short_run_and_is_bounded_in_a_long_one():
    """``d = min(0.5, (1 + n) / (10 + n))``: 2/11 after the first iteration, 0.5 from the eighth on."""
    network, average = Scale(2), Scale(4)
    network.register_buffer("count", torch.tensor(7.0))
    average.register_buffer("count", torch.tensor(0.0))
    handler = MovingAverage(network, average, decay=0.5)
    made = engine()
    handler.attach(made)
    run(made, 1)
    assert float(average.w) == pytest.approx(2 / 11 * 4 + 9 / 11 * 2)
    assert float(average.count) == 7
    made.state.iteration = 20
    average.w.fill_(4.0)
    handler(made)
    assert float(average.w) == pytest.approx(3.0)
    assert float(network.w.detach()) == 2.0
    assert not average.training
    assert not average.w.requires_grad
    assert network.w.requires_grad


def test_an_average_of_another_network_is_refused():
    made = engine()
    made.state.iteration = 1
    for other in (Scale(1), nn.BatchNorm1d(1, affine=False)):  # a parameter more, a buffer more
        with pytest.raises(ValueError, match="argument"):
            MovingAverage(other, nn.Identity(), 0.5)(made)


def test_no_averaging_is_a_copy_and_one_is_refused():
    network, average = Scale(2), Scale(4)
    made = engine()
    MovingAverage(network, average, decay=0).attach(made)
    run(made, 1)
    assert float(average.w) == 2.0
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match="ema_decay must be"):
            MovingAverage(network, average, decay)


@pytest.mark.parametrize(("norm", "expected"), [(1.0, (0.6, 0.8)), (10.0, (3.0, 4.0))])
def test_clipping_scales_the_whole_gradient(norm, expected):
    network = nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    made = engine()
    made.register_events(*IterationEvents)
    GradientClipping(network, norm).attach(made)
    made.state.iteration = 1
    made.fire_event(IterationEvents.BACKWARD_COMPLETED)
    torch.testing.assert_close(network.weight.grad, torch.tensor([expected]))


def test_a_gradient_that_is_still_accumulating_is_left_alone():
    """In float16 it is still scaled, and clipping it would make the step far too small."""
    network = nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    made = engine(accumulation_steps=3)
    for iteration, expected in ((1, 5.0), (2, 5.0), (3, 1.0)):
        made.state.iteration = iteration
        GradientClipping(network, 1.0)(made)
        assert float(network.weight.grad.norm()) == pytest.approx(expected)


def test_autocast_computes_in_the_given_precision_and_answers_in_float32():
    seen = {}

    def network(image, *more):
        seen.update(
            dtype=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
            last=image.is_contiguous(memory_format=torch.channels_last), more=more,
        )  # fmt: skip
        return image.bfloat16()

    image = torch.rand(2, 3, 4, 5)
    assert AutocastInferer("bfloat16")(image, network, 1).dtype == torch.float32
    assert seen == {"dtype": torch.bfloat16, "last": True, "more": (1,)}
    AutocastInferer(None, channels_last=False)(image, network)
    assert seen == {"dtype": None, "last": False, "more": ()}
    assert AutocastInferer("float16", gradients_scaled=True).dtype == torch.float16
    for options in ({"dtype": "float16"}, {"dtype": "int8", "gradients_scaled": True}):
        with pytest.raises(ValueError, match="autocast must be one of"):
            AutocastInferer(**options)


def test_gain_over_cubic():
    """Cubic interpolation of a constant is that constant; errors 0.1 against 0.05, then 0.1 against 0.2."""
    image = torch.zeros(2, 1, 4, 2)
    label = torch.full((2, 1, 4, 4), 0.1)
    pred = torch.stack([torch.full((1, 4, 4), 0.05), torch.full((1, 4, 4), 0.3)])
    pred = torch.cat([pred, torch.full_like(pred, 9.0)], dim=1)  # what it says of its error does not count
    positions = torch.tensor([POSITIONS] * 2)
    metric = PSNRGain()
    metric.update((image[:1], pred[:1], label[:1], positions[:1]))
    assert metric.compute() == pytest.approx(6.0206, abs=1e-3)
    metric.update((image[1:], pred[1:].double(), label[1:], positions[1:]))
    assert metric.compute() == pytest.approx(0.0, abs=1e-3)
    metric.update((image, label, label, positions))  # without error: bounded, 100 dB for 1e-12 against 1e-2
    assert metric.compute() == pytest.approx(50, abs=1e-3)
    metric.reset()
    assert metric.compute() != metric.compute()  # NaN


def test_gain_is_counted_per_patch():
    """One mean over both patches' squared errors would say 0 dB."""
    label = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 1.0)])
    pred = torch.stack([torch.full((1, 4, 4), 0.09), torch.full((1, 4, 4), 0.0)])
    metric = PSNRGain()
    made = engine(lambda _: {"image": torch.zeros(2, 1, 4, 2), "pred": pred, "label": label})
    metric.attach(made, "gain")
    made.run([{"positions": torch.tensor([POSITIONS] * 2)}], max_epochs=1)
    assert made.state.metrics["gain"] == pytest.approx(10.0, abs=1e-3)


def test_cubic_is_at_the_positions_of_the_thin_slices():
    """At the acquired slices themselves cubic interpolation gives their values."""
    image = torch.tensor([1.0, 5.0, 2.0]).reshape(1, 1, 1, 3)
    label = torch.tensor([5.0, 2.0]).reshape(1, 1, 1, 2)
    metric = PSNRGain()
    metric.update((image, label + 0.1, label, torch.tensor([[1.0, 2.0]])))
    assert metric.compute() == pytest.approx(10 * math.log10(1e-12 / 1e-2), abs=1e-2)
    assert metric.required_output_keys == ("image", "pred", "label", "positions")


@pytest.mark.parametrize(
    ("spent", "factor"), [(0, 0.04), (0.025, 0.52), (0.05, 1), (0.2875, 0.853553), (0.525, 0.5), (1, 0), (2, 0)]
)
def test_the_rate_rises_and_falls(spent, factor):
    assert budget.rate_factor(spent) == pytest.approx(factor, abs=1e-6)


def test_rise_can_be_chosen():
    assert budget.rate_factor(0.1, warm_up=0.2) == pytest.approx(0.52)


def test_the_clock_of_a_processor_is_the_time_it_computed():
    before, wall = budget.processor_seconds(torch.device("cpu")), time.perf_counter()
    time.sleep(0.3)
    assert budget.processor_seconds(torch.device("cpu")) - before < 0.2 < time.perf_counter() - wall
    assert abs(budget.processor_seconds(torch.device("cpu")) - time.process_time()) < 0.2


@pytest.fixture
def clock(monkeypatch):
    """Processor seconds that a test sets."""
    now = {"seconds": 100.0}
    monkeypatch.setattr(budget, "processor_seconds", lambda device: now["seconds"])
    return now


@pytest.mark.parametrize(("accumulation_steps", "end"), [(1, 4), (3, 6)])
def test_a_budget_ends_the_stage_as_done_where_the_optimiser_steps(clock, accumulation_steps, end):
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 4.0}], lr=2.0
    )
    discriminators = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8.0)
    batches, rates = IterationBatches(50, 1), []

    def iteration(_):
        rates.append([group["lr"] for made in (optimizer, discriminators) for group in made.param_groups])
        clock["seconds"] += 2.5
        return {}

    made = engine(iteration, accumulation_steps)
    budget.ProcessorBudget(10.0, [optimizer, discriminators], batches, "cpu").attach(made)
    run(made, 50)
    assert made.state.iteration == batches.iterations == end
    spent = [0, 0.25, 0.5, 0.75]
    for found, part in zip(rates, spent, strict=False):
        assert found == pytest.approx([rate * budget.rate_factor(part) for rate in (2.0, 4.0, 8.0)])


def test_the_clock_starts_with_the_first_iteration(clock):
    made = engine(lambda _: clock.update(seconds=clock["seconds"] + 6) or {})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    handler = budget.ProcessorBudget(10.0, [optimizer], IterationBatches(50, 1), "cpu")
    handler.attach(made)
    clock["seconds"] += 1000  # reading volumes
    run(made, 50)
    assert made.state.iteration == 2
    assert handler.device == torch.device("cpu")


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_budget_is_refused(seconds):
    with pytest.raises(ValueError, match="budget must be > 0"):
        budget.ProcessorBudget(seconds, [], None, "cpu")
    assert budget.ProcessorBudget(0.5, [], None, "cpu").seconds == 0.5


def test_handlers_in_order():
    made, calls = engine(), []

    class Handler:
        def __init__(self, name):
            self.name = name

        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, lambda: calls.append(self.name))

    InOrder([Handler("a"), Handler("b")]).attach(made)
    run(made, 1)
    assert calls == ["a", "b"]


def test_batches_of_a_process():
    batches = IterationBatches(iterations=3, batch_size=2, rank=1, world_size=3)
    assert list(batches) == [[2, 3], [8, 9], [14, 15]]
    assert len(batches) == 3
    batches.start = 1
    assert list(batches) == [[8, 9], [14, 15]]
    assert len(batches) == 2
    assert list(IterationBatches(2, 1)) == [[0], [1]]
    assert len(IterationBatches(1, 1)) == 1
    for arguments in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be >= 1"):
            IterationBatches(*arguments)
