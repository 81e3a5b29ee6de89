# SPDX-License-Identifier: Apache-2.0
"""Stages 1 and 2 as the configs run them: outputs, resume, refusals."""

import math
import signal
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigParser
from scripts.degradation import slice_profile_matrix
from scripts.geometry import SliceGrid
from torch.utils.data import default_collate

from tests.conftest import BUNDLE, ROOT, TINY, run_workflow
from tests.training.toys import wait_until_signals_are_handled

STAGES = {1: ("common.json", "train_stage1.json"), 2: ("common.json", "train_stage2.json")}


def weights(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def stage(training_data, tmp_path):
    def run(number, iterations, out="out", **overrides):
        output_dir = tmp_path / out
        run_workflow(
            *STAGES[number],
            **{**training_data, **TINY, "output_dir": str(output_dir), "stage_iterations": iterations, **overrides},
        )
        return output_dir

    return run


def test_stage_outputs(stage):
    out = stage(1, 4)
    assert {p.name for p in out.iterdir()} == {"stage1.pt", "checkpoints", "tensorboard"}
    state = weights(out / "stage1.pt")
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    assert "shallow_1.weight" in state
    out = stage(2, 4)
    assert weights(out / "stage2.pt").keys() == state.keys()
    assert list((out / "tensorboard" / "stage2").glob("events*"))


# One step of plain gradient descent, unclipped and not averaged, can be done again by hand.
DESCENT = {
    "optimizer::_target_": "torch.optim.SGD", "learning_rate": 0.05, "max_gradient_norm": 1e9, "ema_decay": 0.0,
    "lambda_error": 0,
}  # fmt: skip


@pytest.fixture
def by_hand(training_data, tmp_path):
    """The network of a file of weights, and the batch of a stage that begins with patch ``first``."""

    def make(number, path, first=0, **overrides):
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / "configs" / name) for name in STAGES[number]])
        ids = {**training_data, **TINY, "output_dir": str(tmp_path / "out"), "stage_iterations": 1, **overrides}
        parser.update({**ids, "start_weights": None})
        network = parser.get_parsed_content("network_def")
        network.load_state_dict(weights(path))
        dataset = parser.get_parsed_content("train::dataset")
        return network, default_collate([dataset[first + i] for i in range(TINY["batch_size"])])

    return make


def descend(network, loss):
    """The state of the network after one step."""
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter -= DESCENT["learning_rate"] * gradient
    return network.state_dict()


def close(found, expected, start):
    """Equal to a hundredth of the step, which is much larger than rounding."""
    step = max(float((expected[key] - start[key]).abs().max()) for key in start)
    assert step > 1e-5
    for key in start:
        torch.testing.assert_close(found[key], expected[key], atol=step / 100, rtol=0)


def l1(a, b):
    return (a - b).abs().mean()


def thin(network, batch, source="", image=None):
    """The network's image of a batch, or of other images acquired like it."""
    image = batch[f"{source}image"] if image is None else image
    return network(image, batch[f"{source}positions"][0], batch[f"{source}condition"])[:, :1]


def thicken(image, batch):
    """D of the config's profile for every image; thin slice ``j`` lies at thick coordinate ``positions[j]``."""
    positions, n_slices = batch["mr_positions"][0].double(), batch["mr_image"].shape[-1]
    made = []
    for one, condition in zip(image, batch["mr_condition"], strict=True):
        k = 1 / float(condition[0])
        width = max(1.0, k * round(float(condition[1]), 4))
        grid = SliceGrid(n_slices, len(positions), k, float(-positions[0] * k))
        assert abs(float(positions[1] - positions[0]) * k - 1) < 1e-4
        made.append(one @ torch.from_numpy(slice_profile_matrix("box", width, grid).copy()).float().T)
    return torch.stack(made)


def test_an_iteration_of_stage_1_descends_the_l1_distance_to_the_ct(stage, by_hand):
    start = weights(stage(1, 1, out="still", **{**DESCENT, "learning_rate": 0.0}) / "stage1.pt")
    found = weights(stage(1, 1, **DESCENT) / "stage1.pt")
    torch.save(start, (path := stage(1, 1) / "start.pt"))
    network, batch = by_hand(1, path)
    close(found, descend(network, l1(thin(network, batch), batch["label"])), start)


def test_an_iteration_of_stage_2_learns_from_in_plane_detail_and_ct(stage, by_hand):
    path = stage(1, 2) / "stage1.pt"
    found = weights(stage(2, 1, anchor_weight=0.4, **DESCENT) / "stage2.pt")
    network, batch = by_hand(2, path)
    loss = l1(thin(network, batch, "mr_"), batch["mr_label"]) + 0.4 * l1(thin(network, batch, "ct_"), batch["ct_label"])
    close(found, descend(network, loss), weights(path))


@pytest.mark.parametrize("reading", ["current", "through", "frozen", "ema"])
def test_an_iteration_of_the_papers_stage_2(stage, by_hand, reading):
    """``|F(D(F(x))) - F(x)|``: the teachers are alike before the first step; ``through`` learns from the target too."""
    path = stage(1, 2) / "stage1.pt"
    variant = {"stage2_variant": "paper", "stage2_reading": reading, "anchor_weight": 0}
    found = weights(stage(2, 1, **variant, **DESCENT) / "stage2.pt")
    network, batch = by_hand(2, path, **variant)
    target = thin(network, batch, "mr_")
    target = target if reading == "through" else target.detach()
    close(found, descend(network, l1(thin(network, batch, "mr_", thicken(target, batch)), target)), weights(path))


@pytest.mark.parametrize(("reading", "moves"), [("current", True), ("frozen", False), ("ema", True)])
def test_whose_output_a_later_pair_is_made_of(stage, by_hand, reading, moves):
    """After the first step the frozen teacher is still stage 1; the average of decay 0 is the network itself."""
    path = stage(1, 2) / "stage1.pt"
    variant = {"stage2_variant": "paper", "stage2_reading": reading, "anchor_weight": 0}
    start = weights(stage(2, 1, **variant, **DESCENT) / "stage2.pt")
    torch.save(start, after_one := path.with_name("one.pt"))
    found = weights(stage(2, 2, **variant, **DESCENT) / "stage2.pt")
    network, _ = by_hand(2, after_one, **variant)
    teacher, _ = by_hand(2, after_one if moves else path, **variant)
    _, batch = by_hand(2, path, first=TINY["batch_size"], **{**variant, "stage_iterations": 2})
    target = thin(teacher, batch, "mr_").detach()
    close(found, descend(network, l1(thin(network, batch, "mr_", thicken(target, batch)), target)), start)


def test_the_papers_stage_2_is_what_the_paper_says_whatever_came_before():
    """Algorithm 1: ``|| F(x_L) - F(D(F(x_L))) ||_1`` alone, by Adam at 0.0001 with a batch of 1."""
    parser = ConfigParser()
    configs = [str(BUNDLE / "configs" / name) for name in (*STAGES[2], "stage2_paper.json")]
    parser.read_config([*configs[:2], str(ROOT / "studies" / "ours.json"), configs[2]])
    said = {
        "stage2_variant": "paper", "anchor_weight": 0, "lambda_error": 0, "max_gradient_norm": math.inf, "ema_decay": 0,
        "learning_rate": 1e-4, "lr_gamma": 0.2, "lr_step_iterations": 200_000, "batch_size": 1, "accumulation_steps": 1,
    }  # fmt: skip
    assert {name: parser.get_parsed_content(name) for name in said} == said
    assert isinstance(parser.get_parsed_content("loss_function").distance, torch.nn.L1Loss)


@pytest.mark.parametrize("number", [1, 2])
def test_resume_equals_an_uninterrupted_run_bit_for_bit(stage, number):
    """Network, average, optimiser, schedule and data order: everything that could differ ends up in the weights."""
    settings = {"checkpoint_interval": 2, "lr_step_iterations": 2, "learning_rate": 1e-2, "ema_decay": 0.9}
    if number == 2:
        for out in ("whole", "parts"):
            stage(1, 2, out=out)
    whole = stage(number, 7, out="whole", **settings)
    stage(number, 3, out="parts", **settings)
    (parts_final := stage(number, 3, out="parts", **settings) / f"stage{number}.pt").unlink()
    parts = stage(number, 7, out="parts", **settings)
    assert parts_final.exists()
    assert same(weights(whole / f"stage{number}.pt"), weights(parts / f"stage{number}.pt"))
    last = f"checkpoints/stage{number}_7.pt"
    a, b = (torch.load(out / last, weights_only=True) for out in (whole, parts))
    assert same(a["network"], b["network"])
    assert a["lr_scheduler"]["last_epoch"] == b["lr_scheduler"]["last_epoch"] == 7


def test_stage_2_refuses_to_start_without_stage_1(stage, tmp_path):
    with pytest.raises(SystemExit, match="stage2 needs weights at") as caught:
        stage(2, 2)
    assert str(tmp_path / "out" / "stage1.pt") in str(caught.value)


def test_weights_of_another_size_are_refused(stage):
    stage(1, 2, **{"network_def::features": 5})
    assert "must hold the bare state dict of SRNet" in failure(lambda: stage(2, 2))


def failure(run):
    """All messages of the chain: MONAI wraps what happens inside a config."""
    with pytest.raises(RuntimeError) as caught:
        run()
    messages, error = [], caught.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(messages)


def test_one_file_each_is_enough(stage, training_data, tmp_path):
    for folder in ("ct", "mr"):
        (tmp_path / folder / f"{folder}1.nii.gz").unlink()
    stage(1, 2)
    assert (stage(2, 2) / "stage2.pt").exists()


def test_nan_ends_the_run_with_an_error_and_no_weights(stage):
    assert "loss must be finite, got" in failure(lambda: stage(1, 4, learning_rate=1e30))


def test_runaway_output_ends_stage_2(stage):
    stage(1, 2)
    settings = {"learning_rate": 1.0, "val_interval": 1, "max_gradient_growth": 1.0001, "max_period_peak": 1e-4}
    assert "must stay stable" in failure(lambda: stage(2, 9, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_to_go_on_from(training_data, tmp_path, number):
    overrides = {**training_data, **TINY, "output_dir": str(tmp_path / "out"), "stage_iterations": 100000}
    configs = [str(BUNDLE / "configs" / name) for name in STAGES[1]]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(configs)]
    for key, value in {**overrides, "val_interval": 100000}.items():
        command += [f"--{key}", str(value)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.STDOUT, stdout=subprocess.PIPE) as process:
        wait_until_signals_are_handled(process)
        process.send_signal(number)
        process.communicate(timeout=300)
    assert process.returncode == 128 + number
    (checkpoint,) = (tmp_path / "out" / "checkpoints").iterdir()
    assert torch.load(checkpoint, weights_only=True)["iteration"] == int(checkpoint.stem.split("_")[1]) > 0
    assert not (tmp_path / "out" / "stage1.pt").exists()
