# SPDX-License-Identifier: Apache-2.0
"""Curves, pictures, bars and stops: what is written, when, and by which process."""

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.engines.utils import IterationEvents
from monai.utils.enums import AdversarialIterationEvents
from scripts.networks.citnet import Translation
from scripts.training.curves import Curves, open_writer
from scripts.training.gradients import GradientNorms, gradient_norm
from scripts.training.pictures import COLUMNS, TranslationPictures, translation_grid
from scripts.training.watch import (
    StopOnNaN,
    TrainingBar,
    TrainingDivergedError,
    ValidateAtIterations,
    ValidationPictures,
)
from torch import nn

from tests.training.toys import POSITIONS, Events, Recorder, Scale, engine, run


def test_curves_of_a_trainer_hold_its_scalars_at_intervals():
    writer = Recorder()
    made = engine(lambda n: {"loss": torch.tensor(n / 2), "image": torch.zeros(2), "name": "x"})
    Curves(writer, interval=2).attach(made)
    run(made, 5)
    assert writer.scalars == {"loss": [(2, 1.0), (4, 2.0)]}


def test_curves_of_a_validator_hold_its_metrics_once_per_run():
    writer = Recorder()
    made = engine(lambda n: {"loss": torch.tensor(1.0)})
    made.state.metrics = {}
    Curves(writer).attach(made)
    made.add_event_handler(Events.ITERATION_COMPLETED, lambda e: e.state.metrics.update(gain=float(e.state.iteration)))
    made.run([0, 0], max_epochs=1)
    assert writer.scalars == {"gain": [(1, 2.0)]}


def test_only_the_first_process_writes(tmp_path):
    assert open_writer(str(tmp_path), "stage1", rank=1) is None
    assert not list(tmp_path.iterdir())
    writer = open_writer(str(tmp_path), "stage1")
    writer.close()
    assert list((tmp_path / "tensorboard" / "stage1").glob("events*"))
    made = engine(lambda n: {"loss": torch.tensor(1.0)})
    for handler in (Curves(None, interval=1), Curves(None), ValidationPictures(None, 1), GradientNorms(1, None)):
        handler.attach(made)
    run(made, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(bad):
    made = engine(
        lambda n: {"image": torch.tensor([bad]), "text": "nan", "loss_ct": torch.tensor(1.0 if n < 3 else bad)}
    )
    StopOnNaN().attach(made)
    with pytest.raises(TrainingDivergedError, match=r"loss_ct must be finite, got -?(nan|inf) at iteration 3"):
        run(made, 5)


def test_one_process_has_a_bar_with_the_loss(capsys):
    made = engine(lambda n: {"loss": torch.tensor(n / 4)})
    bars = {rank: TrainingBar(f"stage of {rank}", rank) for rank in (0, 1)}
    assert bars[0].tqdm_kwargs["disable"] is None  # none where nobody looks: not on a terminal
    assert TrainingBar("one process").tqdm_kwargs["disable"] is None
    assert bars[1].tqdm_kwargs["disable"] is True
    bars[0].tqdm_kwargs["disable"] = False
    for bar in bars.values():
        bar.attach(made)
    run(made, 3)
    shown = capsys.readouterr().err
    assert "stage of 0" in shown
    assert "loss=0.75" in shown
    assert "stage of 1" not in shown
    assert max(map(len, shown.rstrip("\n").split("\r"))) == 100
    assert shown.endswith("\n")  # it stays


def test_validation_at_intervals_under_the_trainers_iteration():
    calls = []

    class Validator:
        def run(self, epoch):
            calls.append(epoch)

    handler = ValidateAtIterations.__new__(ValidateAtIterations)
    handler.validator, handler.interval, handler.epoch_level, handler.exec_at_start = Validator(), 2, False, False
    made = engine()
    handler.attach(made)
    run(made, 5)
    assert calls == [2, 4]


def test_validation_is_by_iteration():
    handler = ValidateAtIterations(interval=3, validator=None)
    assert (handler.interval, handler.epoch_level) == (3, False)


def test_validation_pictures():
    """Thick (repeated), cubic (of a constant, the constant), network, truth; the first three patches of two batches."""

    def patch(value):
        return torch.full((2, 1, 2, 4), value)

    def pred(value):
        return torch.cat([patch(value), patch(9.0)], dim=1)  # what it says of its error is not shown

    batches = [
        {"image": torch.full((2, 1, 2, 2), -1.0), "pred": pred(0.0), "label": patch(1.0)},
        {"image": torch.full((2, 1, 2, 2), 0.5), "pred": pred(-3.0), "label": patch(3.0)},
    ]
    writer, made = Recorder(), engine(lambda n: batches[(n - 1) % 2])
    ValidationPictures(writer, count=3).attach(made)
    for _ in range(2):
        made.run([{"positions": torch.tensor([POSITIONS] * 2)}] * 2, max_epochs=1)
    ((tag, pictures),) = writer.images.items()
    assert tag == "validation/thick_cubic_network_truth"
    assert len(pictures) == 2
    for step, picture in pictures:
        assert step == 1
        assert picture.shape == (1, 6, 16)
        expected = [[0, 0, 0.5, 1]] * 2 + [[0.75, 0.75, 0, 1]]
        found = picture[0].unflatten(0, (3, 2)).unflatten(2, (4, 4)).mean(dim=(1, 3))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    ValidationPictures(writer, 0).attach(empty := engine(lambda n: batches[0]))
    empty.run([{"positions": torch.tensor([POSITIONS] * 2)}], max_epochs=1)
    assert len(pictures) == 2


def test_validation_pictures_show_the_nearest_thick_slice_and_cubic_at_the_thin_ones():
    """Beyond the first slice it is repeated; half-way between -1 and 1 cubic interpolation gives 0."""
    zeros = torch.zeros(1, 1, 1, 3)
    output = {"image": torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2), "pred": zeros, "label": zeros}
    writer, made = Recorder(), engine(lambda _: output)
    ValidationPictures(writer, count=1).attach(made)
    made.run([{"positions": torch.tensor([[-0.4, 0.5, 1.6]])}], max_epochs=1)
    picture = next(iter(writer.images.values()))[0][1].flatten()
    assert picture[[0, 2]].tolist() == [0.0, 1.0]
    assert float(picture[4]) == pytest.approx(0.5)
    assert picture[6:].tolist() == [0.5] * 6


def test_validation_pictures_are_of_this_validation():
    writer = Recorder()
    level = [0.0]
    images = {"image": torch.zeros(1, 1, 1, 2), "label": torch.zeros(1, 1, 1, 4)}
    made = engine(lambda _: {**images, "pred": torch.full((1, 1, 1, 4), level[0])})
    ValidationPictures(writer, count=1).attach(made)
    for level[0] in (-1.0, 1.0):
        made.run([{"positions": torch.tensor([POSITIONS])}], max_epochs=1)
    ((_, (first, second)),) = writer.images.items()
    assert (first[1][0, 0, 8:12].tolist(), second[1][0, 0, 8:12].tolist()) == ([0.0] * 4, [1.0] * 4)


def test_gradient_norm():
    a, b, other = (nn.Parameter(torch.tensor(1.0)) for _ in range(3))
    term = 3 * a + 4 * b
    assert gradient_norm(term, [a, b, other]) == pytest.approx(5.0)
    assert gradient_norm(term, [a]) == pytest.approx(3.0)  # its graph is kept
    assert gradient_norm(term, [other]) == 0.0
    assert gradient_norm(torch.tensor(2.0), [a]) == 0.0
    assert a.grad is None


class JointEngine:
    """Fires what the joint trainer fires, with gradients of 3 and 4 at SRNet, 6 at CITNet, 8 at the discriminators."""

    def __new__(cls, scale, accumulation_steps):
        networks = {name: nn.Linear(2, 1, bias=False) for name in ("network", "citnet", "discriminators")}

        def iteration(number):
            w = networks["network"].weight
            made.state.output = {"weighted": {"adv": (w * torch.tensor([[3.0, 4.0]])).sum(), "none": torch.zeros(())}}
            made.fire_event(IterationEvents.LOSS_COMPLETED)
            networks["network"].weight.grad = torch.tensor([[3.0, 4.0]])
            networks["citnet"].weight.grad = torch.tensor([[0.0, 6.0]])
            networks["discriminators"].weight.grad = torch.tensor([[8.0, 0.0]])
            made.fire_event(AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED)
            made.fire_event(IterationEvents.BACKWARD_COMPLETED)
            return {}

        made = engine(iteration, accumulation_steps)
        made.register_events(*IterationEvents, *AdversarialIterationEvents)
        vars(made).update(networks)
        made.gradient_scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        return made


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_gradient_norms_are_logged_at_intervals_unscaled(scale):
    writer, made = Recorder(), JointEngine(scale, 1)
    GradientNorms(2, writer).attach(made)
    run(made, 5)
    assert writer.scalars == {
        "gradient_norm/adv": [(2, 5.0), (4, 5.0)],
        "gradient_norm/none": [(2, 0.0), (4, 0.0)],
        "total_gradient_norm/discriminators": [(2, 8.0 / scale), (4, 8.0 / scale)],
        "total_gradient_norm/srnet": [(2, 5.0), (4, 5.0)],
        "total_gradient_norm/citnet": [(2, 6.0), (4, 6.0)],
    }


def test_gradient_norms_wait_for_the_optimisers_step():
    """With an accumulation of 3 an interval of 2 becomes 3; what is still accumulating is still scaled."""
    writer, made = Recorder(), JointEngine(1.0, 3)
    GradientNorms(2, writer).attach(made)
    run(made, 6)
    assert [step for step, _ in writer.scalars["gradient_norm/adv"]] == [3, 6]
    assert [step for step, _ in writer.scalars["total_gradient_norm/srnet"]] == [3, 6]


def test_a_network_without_gradient_has_norm_zero():
    writer, made = Recorder(), JointEngine(1.0, 1)
    handler = GradientNorms(1, writer)
    made.state.iteration = 1
    handler._totals(made, {"srnet": nn.Linear(2, 1)}, 1.0)
    assert writer.scalars == {"total_gradient_norm/srnet": [(1, 0.0)]}


def constant(value, count=2):
    return torch.full((count, 1, 2, 4), value)


def test_the_grid_of_a_translation():
    """Columns in the order of their names; -1 is black, 1 is white, beyond is cut."""
    names = ("mr_self", "ct_self", "mr_to_ct", "ct_to_mr", "mr_cycle", "ct_cycle")
    values = dict(zip(names, (-1.0, -0.5, 0.0, 0.5, 1.0, 3.0), strict=True))
    made = Translation(**{
        name: constant(values.get(name, 9.0)) if name in values else torch.zeros(2, 1) for name in Translation._fields
    })  # fmt: skip
    grid = translation_grid(constant(-3.0), constant(0.2), made)
    assert grid.shape == (1, 4, 32)
    found = grid[0].unflatten(1, (8, 4)).mean(dim=(0, 2))
    order = [-3.0, values["mr_self"], values["mr_cycle"], values["mr_to_ct"], 0.2]
    order += [values["ct_self"], values["ct_cycle"], values["ct_to_mr"]]
    torch.testing.assert_close(found, torch.tensor(order).add(1).div(2).clamp(0, 1))
    assert len(COLUMNS) == 8


class Echo(nn.Module):
    """A CITNet that gives back its inputs, marked by the draws."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, mr, ct, mr_attribute, ct_attribute, own_attribute):
        images = dict.fromkeys(Translation._fields, torch.zeros_like(mr))
        images |= {"mr_self": mr + self.shift, "ct_self": ct, "mr_to_ct": ct_attribute.reshape(-1, 1, 1, 1) + 0 * mr}
        images |= {"ct_to_mr": mr + 0.9 if own_attribute else mr_attribute.reshape(-1, 1, 1, 1) + 0 * mr}
        images |= {"mr_cycle": 0.4 + 0 * mr, "ct_cycle": -0.4 + 0 * mr}
        return Translation(**images)


@pytest.fixture
def drawn():
    items = [
        {
            "mr_image": torch.full((1, 2, 2), 0.1 * i), "ct_label": torch.full((1, 2, 4), -0.1 * i),
            "mr_attribute": torch.tensor([0.5]), "ct_attribute": torch.tensor([-0.5]), "ct_image": torch.zeros(1, 2, 2),
            "mr_positions": torch.tensor(POSITIONS), "mr_condition": torch.full((4,), 1.0 * i),
        } for i in range(3)
    ]  # fmt: skip
    writer = Recorder()
    return TranslationPictures(Scale(2), Echo(), items, count=2, interval=2, writer=writer), writer


def columns(picture):
    return picture[0].unflatten(0, (2, 2)).unflatten(2, (8, 4)).mean(dim=(1, 3)) * 2 - 1


def test_translation_pictures_show_the_first_pairs_at_intervals(drawn):
    pictures, writer = drawn
    made = engine()
    pictures.attach(made)
    run(made, 5)
    (drawings,) = writer.images.values()
    assert [step for step, _ in drawings] == [2, 4]
    assert pictures.network.told == (POSITIONS, [[0.0] * 4, [1.0] * 4])
    expected = torch.tensor([[0, 0, 0.4, -0.5, 0, 0, -0.4, 0.5], [0.2, 0.2, 0.4, -0.5, -0.1, -0.1, -0.4, 0.5]])
    torch.testing.assert_close(columns(drawings[0][1]), expected, atol=1e-5, rtol=0)


def test_no_writer_no_picture_but_one_can_be_written(drawn, tmp_path, monkeypatch):
    pictures, _ = drawn
    pictures.writer = None
    made = engine()
    pictures.attach(made)
    run(made, 2)
    (tmp_path / "checkpoints").mkdir()
    citnet = Echo()
    citnet.shift.data.fill_(0.6)
    torch.save({"network": Scale(3).state_dict(), "citnet": citnet.state_dict()}, tmp_path / "checkpoints" / "s_4.pt")
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (figures.append(figure), save(figure, *args, **kw))
    )
    for _ in range(2):  # the second picture takes the place of the first
        pictures.write(str(tmp_path / "checkpoints"), "s", str(tmp_path / "new" / "folder" / "picture.png"))
    (axes,) = figures[0].axes
    assert axes.get_xticks().tolist() == [2, 6, 10, 14, 18, 22, 26, 30]  # middles of eight columns of four pixels
    assert [label.get_text() for label in axes.get_xticklabels()] == list(COLUMNS)
    assert axes.xaxis.get_ticks_position() == "top"
    assert axes.xaxis.get_major_ticks()[0].tick2line.get_markersize() == 0
    assert not len(axes.get_yticks())
    torch.testing.assert_close(columns(pictures.draw())[1, :2], torch.tensor([0.3, 0.9]), atol=1e-5, rtol=0)
    shown = matplotlib.image.imread(tmp_path / "new" / "folder" / "picture.png")
    height, width = shown.shape[:2]
    assert width == 1800
    assert height == pytest.approx(150 * (12 * 4 / 32 + 0.4), abs=2)
    assert np.isclose(shown[..., 0], (0.9 + 1) / 2, atol=0.01).mean() > 0.02
    assert np.ptp(shown[..., 0]) > 0.9


def test_ct_can_be_drawn_with_the_attribute_code_of_the_mr_beside_it(drawn):
    pictures, _ = drawn
    pictures.own_attribute = True
    torch.testing.assert_close(columns(pictures.draw())[0, [0, 7]], torch.tensor([0.0, 0.9]), atol=1e-5, rtol=0)


def test_fewer_items_than_rows_are_no_trouble_and_other_factors_are_left_out(drawn):
    pictures, _ = drawn
    one = {key: value[0] for key, value in pictures.batch.items()}
    other = {**one, "mr_image": torch.zeros(1, 2, 3)}
    for items, count in (([one], 1), ([one, other, one], 2)):
        made = TranslationPictures(Scale(2), Echo(), items, count=5, interval=1, writer=None)
        assert len(made.batch["mr_image"]) == count
