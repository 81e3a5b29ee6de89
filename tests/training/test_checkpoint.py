# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and weights on disk: what is in them, when they are written, what is refused."""

import os
import signal

import pytest
import torch
from ignite.engine import Events
from scripts.training.batches import IterationBatches
from scripts.training.checkpoint import StageCheckpoint, load_newest, whole_steps
from scripts.training.weights import load_weights, require_weights, save_weights
from torch import nn

from tests.training.toys import Scale, engine


@pytest.fixture(autouse=True)
def signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Stage:
    """A stage whose network holds the number of iterations it has seen."""

    def __init__(self, folder, iterations, accumulation_steps=1, during=None, **options):
        self.network, self.average = Scale(0), Scale(100)
        self.batches = IterationBatches(iterations, 1)
        self.engine = engine(self.iteration, accumulation_steps)
        self.during = during or {}
        self.seen = []
        self.checkpoint = StageCheckpoint(
            {"network": self.network}, str(folder), "stage1", options.pop("interval", 2), self.batches, self.average,
            **options,
        )  # fmt: skip
        self.checkpoint.attach(self.engine)

    def iteration(self, number):
        self.seen.append(number)
        self.network.w.data += 1
        self.draw = torch.rand(())
        if number in self.during:
            self.during[number]()
        return {}

    def run(self):
        self.engine.run(self.batches, max_epochs=1, epoch_length=self.batches.iterations)
        return self


def files(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(("interval", "steps", "expected"), [(2, 1, 2), (3, 2, 4), (4, 2, 4), (1, 5, 5), (6, 5, 10)])
def test_intervals_are_rounded_up_to_whole_steps(interval, steps, expected):
    assert whole_steps(interval, steps) == expected


def test_the_newest_two_stay_and_the_end_has_weights(tmp_path):
    stage = Stage(tmp_path, 7).run()
    assert files(tmp_path) == ["stage1_6.pt", "stage1_7.pt"]
    content = torch.load(tmp_path / "checkpoints" / "stage1_6.pt", weights_only=True)
    assert content.keys() == {"iteration", "rng", "network"}
    assert content["iteration"] == 6
    assert float(content["network"]["w"]) == 6
    assert float(torch.load(tmp_path / "stage1.pt", weights_only=True)["w"]) == 100  # the average
    assert stage.seen == [1, 2, 3, 4, 5, 6, 7]


def test_how_many_stay_can_be_chosen(tmp_path):
    Stage(tmp_path, 12, keep=3).run()
    assert files(tmp_path) == ["stage1_10.pt", "stage1_12.pt", "stage1_8.pt"]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("stage1_notes.pt", "stage2_9.pt"):
        (tmp_path / "checkpoints" / name).touch()
    Stage(tmp_path, 8, keep=1).run()
    assert files(tmp_path) == ["stage1_8.pt", "stage1_notes.pt", "stage2_9.pt"]


def test_a_stage_goes_on_from_its_newest_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(5)
    Stage(tmp_path, 10).run()
    (tmp_path / "stage1.pt").unlink()
    torch.manual_seed(6)
    longer = Stage(tmp_path, 12).run()
    assert longer.seen == [11, 12]
    assert "stage1 goes on from iteration 10" in caplog.text
    assert f"stage1 done: {tmp_path / 'stage1.pt'}" in caplog.text
    assert float(longer.network.w.detach()) == 12
    torch.manual_seed(5)
    whole = Stage(tmp_path / "whole", 12).run()
    assert torch.equal(whole.draw, longer.draw)
    assert (tmp_path / "stage1.pt").exists()


def test_a_stage_that_is_done_only_writes_its_weights(tmp_path):
    Stage(tmp_path, 4).run()
    (tmp_path / "stage1.pt").unlink()
    assert Stage(tmp_path, 4).run().seen == []
    assert (tmp_path / "stage1.pt").exists()


def test_a_fresh_start_can_be_asked_for(tmp_path):
    Stage(tmp_path, 4).run()
    assert Stage(tmp_path, 4, resume=False).run().seen == [1, 2, 3, 4]


def test_a_stage_cannot_be_shorter_than_its_checkpoint(tmp_path):
    Stage(tmp_path, 4).run()
    with pytest.raises(ValueError, match="stage_iterations must be >= 4") as caught:
        Stage(tmp_path, 3).run()
    assert "stage1_4.pt" in str(caught.value)


def test_nothing_is_written_in_the_middle_of_an_accumulation(tmp_path):
    Stage(tmp_path, 12, accumulation_steps=4, interval=3, keep=9).run()
    assert files(tmp_path) == ["stage1_12.pt", "stage1_4.pt", "stage1_8.pt"]
    with pytest.raises(ValueError, match="must be a multiple of accumulation_steps, got 5 and 4"):
        Stage(tmp_path, 5, accumulation_steps=4).run()


def test_only_the_first_process_writes_and_all_read(tmp_path):
    Stage(tmp_path, 4, rank=1).run()
    assert not list(tmp_path.iterdir())
    Stage(tmp_path, 4, rank=0).run()
    assert Stage(tmp_path, 6, rank=1).run().seen == [5, 6]
    assert files(tmp_path) == ["stage1_2.pt", "stage1_4.pt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("steps", "end"), [(1, 3), (2, 4)])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path, caplog, number, steps, end):
    stage = Stage(
        tmp_path, 10, accumulation_steps=steps, interval=100, during={3: lambda: os.kill(os.getpid(), number)}
    )
    with pytest.raises(SystemExit) as caught:
        stage.run()
    assert caught.value.code == 128 + number
    assert f"stopped by signal {int(number)} at iteration {end}" in caplog.text
    assert files(tmp_path) == [f"stage1_{end}.pt"]
    assert not (tmp_path / "stage1.pt").exists()


def test_the_signal_of_one_process_ends_all(tmp_path, monkeypatch):
    def gather(asked, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        asked.fill_(signal.SIGTERM)

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", gather)
    stage = Stage(tmp_path, 10, interval=100)
    stage.engine.state.device = torch.device("cpu")
    with pytest.raises(SystemExit) as caught:
        stage.run()
    assert caught.value.code == 128 + signal.SIGTERM
    assert files(tmp_path) == ["stage1_1.pt"]


def test_a_stage_that_ends_early_leaves_no_weights(tmp_path):
    stage = Stage(tmp_path, 10)
    stage.engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda e: e.terminate())
    stage.run()
    assert files(tmp_path) == ["stage1_2.pt", "stage1_4.pt"]
    assert not (tmp_path / "stage1.pt").exists()


@pytest.mark.parametrize("name", ["gradient_scaler", "scaler"])
def test_a_gradient_scaler_is_part_of_the_state(tmp_path, name):
    def scaled(factor):
        return torch.amp.GradScaler("cpu", init_scale=factor)

    first = Stage(tmp_path, 2)
    setattr(first.engine, name, scaled(8.0))
    first.run()
    second = Stage(tmp_path, 4)
    setattr(second.engine, name, scaled(2.0))
    second.run()
    assert getattr(second.engine, name).get_scale() == 8.0


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    Stage(tmp_path, 2).run()
    stage = Stage(tmp_path, 4)
    monkeypatch.setattr("torch.save", lambda content, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        stage.run()
    monkeypatch.undo()
    assert Stage(tmp_path, 4).run().seen == [3, 4]


def test_load_newest_takes_some_of_the_newest(tmp_path):
    for iteration, w in ((8, 0.5), (10, 2.0), (9, 1.0)):
        torch.save({"network": Scale(w).state_dict(), "more": 1}, tmp_path / f"s_{iteration}.pt")
    network = Scale(0)
    assert load_newest(str(tmp_path), "s", {"network": network}) == tmp_path / "s_10.pt"
    assert float(network.w.detach()) == 2.0
    with pytest.raises(FileNotFoundError, match="must hold a checkpoint of other, got none"):
        load_newest(str(tmp_path), "other", {"network": network})


def test_weights_there_and_back(tmp_path):
    path = tmp_path / "new" / "w.pt"
    save_weights(Scale(3), path)
    assert [p.name for p in path.parent.iterdir()] == ["w.pt"]
    network = Scale(0)
    assert load_weights(network, str(path)) is network
    assert float(network.w.detach()) == 3.0
    assert not torch.load(path, weights_only=True)["w"].requires_grad
    assert load_weights(Scale(5), None).w.item() == 5.0


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"must hold the bare state dict of Scale .* got RuntimeError"):
        load_weights(Scale(0), str(tmp_path / "w.pt"))
    with pytest.raises(FileNotFoundError, match=r"stage 9 needs weights at .*absent.pt"):
        load_weights(Scale(0), str(tmp_path / "absent.pt"), "stage 9")


def test_weights_are_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"w": Evil()}, tmp_path / "w.pt")
    (tmp_path / "checkpoints").mkdir()
    torch.save({"network": Evil()}, tmp_path / "checkpoints" / "stage1_1.pt")
    for load in (
        lambda: load_weights(Scale(0), str(tmp_path / "w.pt")),
        lambda: load_newest(str(tmp_path / "checkpoints"), "stage1", {"network": Scale(0)}),
        lambda: Stage(tmp_path, 3).run(),
    ):
        with pytest.raises(Exception, match=r"(?i)weights_only|unsupported"):
            load()
    assert not (tmp_path / "executed").exists()


def test_weights_that_must_be_there(tmp_path):
    require_weights(None, "stage 1")
    save_weights(Scale(1), tmp_path / "w.pt")
    require_weights(str(tmp_path / "w.pt"), "stage 2")
    with pytest.raises(SystemExit, match=r"stage 2 needs weights at .*absent.pt, which does not exist; run"):
        require_weights(str(tmp_path / "absent.pt"), "stage 2")
