# SPDX-License-Identifier: Apache-2.0
"""Stage 3 as the config runs it: outputs, variants, resume, refusals, pictures."""

import signal
import subprocess
import sys

import matplotlib.image
import pytest
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import BUNDLE, TINY, make_affine, run_workflow, save_nifti, smooth_volume
from tests.training.toys import wait_until_signals_are_handled

CONFIGS = ("common.json", "train_stage3.json")
PAPER = ("stage3_paper.json",)
SMALL = {
    **TINY,
    "patch_rows": 32,
    "patch_columns": 32,
    "citnet_def::width": 4,
    "citnet_def::residual_blocks": 1,
    "citnet_def::perceptron_width": 8,
    "discriminators_def::width": 4,
    "discriminators_def::layers": 2,
    "discriminators_def::scales": 2,
    "translation_picture_count": 2,
    "lambda_percep": 0,
}


def weights(path):
    return torch.load(path, weights_only=True)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.fixture
def stage(training_data, tmp_path):
    def run(iterations, out="out", overlays=(), **overrides):
        output_dir = tmp_path / out
        ids = {**training_data, **SMALL, "output_dir": str(output_dir), "stage_iterations": iterations, **overrides}
        if not (output_dir / "stage2.pt").exists():
            for number in (1, 2):
                earlier = {key: value for key, value in ids.items() if key.split("::")[0] in KNOWN_EARLIER}
                run_workflow("common.json", f"train_stage{number}.json", **{**earlier, "stage_iterations": 2})
        run_workflow(*CONFIGS, *overlays, **ids)
        return output_dir

    return run


KNOWN_EARLIER = {*(key.split("::")[0] for key in TINY), "ct_dir", "mr_dir", "bundle_root", "output_dir"}


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, events.Tags()


def test_outputs_logs_and_inference_takes_the_weights(stage, tmp_path):
    out = stage(4, gradient_norm_interval=2, log_interval=1, val_interval=2, picture_interval=2)
    before, after = (weights(out / f"stage{number}.pt") for number in (2, 3))
    assert before.keys() == after.keys()
    logged, tags = scalars(out / "tensorboard" / "stage3")
    terms = {"adv", "self", "cycle", "latent", "consistency", "ct_l1"}
    assert {f"gradient_norm/{term}" for term in terms} <= logged.keys()
    assert {f"total_gradient_norm/{name}" for name in ("srnet", "citnet", "discriminators")} <= logged.keys()
    for name in ("accuracy_mr", "accuracy_ct", "loss_discriminators", "self_mr", "cycle_ct"):
        (tag,) = [tag for tag in logged if tag.endswith(name)]
        assert len(logged[tag]) == 4
    assert all(0 <= value <= 1 for tag in logged if "accuracy" in tag for value in logged[tag])
    assert any("translation" in tag for tag in tags["images"])
    save_nifti(tmp_path / "in" / "a.nii.gz", smooth_volume((16, 16, 6)), make_affine([1, 1, 4]))
    size = {key: value for key, value in TINY.items() if key.startswith("network_def")}
    run_workflow(
        "inference.json", workflow_type="infer", bundle_root=str(BUNDLE), dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "sr"), ckpt_path=str(out / "stage3.pt"), device="cpu", progress=False, **size,
    )  # fmt: skip
    assert (tmp_path / "sr" / "a_sr.nii.gz").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("overlays", "lambda_translated"), [((), 0.0), ((), 20.0), (PAPER, 0.0)])
def test_resume_equals_an_uninterrupted_run_bit_for_bit(stage, overlays, lambda_translated):
    settings = {
        "lambda_translated": lambda_translated,
        "checkpoint_interval": 2, "lr_step_iterations": 2, "learning_rate": 1e-3,
        "warmup_iterations": 2, "val_interval": 100,
    }  # fmt: skip
    whole = stage(7, out="whole", overlays=overlays, **settings)
    for iterations in (3, 7):
        parts = stage(iterations, out="parts", overlays=overlays, **settings)
    a, b = (weights(out / "checkpoints" / "stage3_7.pt") for out in (whole, parts))
    assert {"citnet", "discriminators", "discriminator_optimizer", "discriminator_lr_scheduler", "rng"} <= a.keys()
    for name in a.keys() - {"rng"}:  # a data loader draws from torch's generator when it is made; training never does
        assert equal(a[name], b[name]), name
    assert equal(weights(whole / "stage3.pt"), weights(parts / "stage3.pt"))


def test_translated_pairs_are_logged_with_their_gradient(stage):
    ids = {"gradient_norm_interval": 1, "log_interval": 1, "warmup_iterations": 1}
    logged, _ = scalars(
        stage(3, lambda_translated=20.0, translated_min_sharpness=0.0, **ids) / "tensorboard" / "stage3"
    )
    assert logged["gradient_norm/translated"][-1] > 0
    (tag,) = [tag for tag in logged if tag.endswith("translated_mr")]
    assert logged[tag][-1] > 0


def test_variants_differ_as_they_say(stage):
    start = stage(3, overlays=PAPER, learning_rate=1e-3)
    logged, _ = scalars(start / "tensorboard" / "stage3")
    assert not any(tag.endswith(("consistency_mr", "ct_l1")) for tag in logged)
    # EMA off: the shipped weights are the last ones
    last = weights(start / "checkpoints" / "stage3_3.pt")
    assert equal(last["network"], weights(start / "stage3.pt"))


def test_srnet_stands_still_during_the_warmup(stage):
    out = stage(3, warmup_iterations=3, learning_rate=1e-2)
    assert equal(weights(out / "stage2.pt"), weights(out / "stage3.pt"))
    start, moved = weights(out / "stage2.pt"), weights(stage(4, warmup_iterations=3, learning_rate=1e-2) / "stage3.pt")
    step = max(float((moved[key] - start[key]).abs().max()) for key in start)
    # Adam's first step has the length of the rate, a tenth of CITNet's; the average of decay (1 + 4) / (10 + 4) follows
    assert step == pytest.approx(1e-3 * (1 - 5 / 14), rel=1e-2)


def test_refuses_to_start_without_stage_2(training_data, tmp_path):
    with pytest.raises(SystemExit, match="stage3 needs weights at") as caught:
        run_workflow(*CONFIGS, **{**training_data, **SMALL, "output_dir": str(tmp_path / "out")})
    assert str(tmp_path / "out" / "stage2.pt") in str(caught.value)


def test_missing_perceptual_weights_name_the_file_and_the_ids(stage, tmp_path):
    stage(2)
    with pytest.raises(SystemExit) as caught:
        stage(3, lambda_percep=1.0, perceptual_weights=str(tmp_path / "absent.pth"))
    for word in ("absent.pth", "perceptual_backbone", "perceptual_weights", "lambda_percep"):
        assert word in str(caught.value)
    with pytest.raises(SystemExit, match="perceptual_backbone must be one of"):
        stage(3, lambda_percep=1.0, perceptual_backbone="resnet")


@pytest.mark.parametrize("profile", ["gaussian", "box", "slr"])
def test_the_operator_is_of_the_profile_that_acquired_mr_is_assumed_to_have(profile):
    """In data consistency and in what SRNet is told; nothing is fixed to one profile."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in CONFIGS])
    parser.update({"lambda_percep": 0, "acquired_profile": profile})
    assert parser.get_parsed_content("objective").data_consistency.degrade.profile == profile
    assert parser.get_parsed_content("mr_patch").transforms[-1].profile == profile


@pytest.mark.parametrize("form", ["log", "non_saturating", "least_squares"])
def test_every_adversarial_form_trains(stage, form):
    assert (stage(2, adversarial_form=form) / "stage3.pt").exists()


def test_accumulation_steps_once_in_n(stage):
    out = stage(4, accumulation_steps=2, checkpoint_interval=1)
    state = weights(out / "checkpoints" / "stage3_4.pt")
    steps = {int(entry["step"]) for entry in state["optimizer"]["state"].values()}
    assert steps == {2}


def test_picture_from_a_checkpoint(stage, training_data, tmp_path):
    out = stage(2)
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in CONFIGS])
    parser.update({**training_data, **SMALL, "output_dir": str(out), "stage_iterations": 2})
    parser.get_parsed_content("picture")
    picture = matplotlib.image.imread(out / "translation.png")
    assert picture.std() > 0.05


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_to_go_on_from(stage, training_data, tmp_path):
    out = stage(2)
    for path in (out / "checkpoints").glob("stage3*"):
        path.unlink()
    (out / "stage3.pt").unlink()
    configs = [str(BUNDLE / "configs" / name) for name in CONFIGS]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(configs)]
    ids = {**training_data, **SMALL, "output_dir": str(out), "stage_iterations": 100000, "val_interval": 100000}
    for key, value in ids.items():
        command += [f"--{key}", str(value)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.STDOUT, stdout=subprocess.PIPE) as process:
        wait_until_signals_are_handled(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    (checkpoint,) = (out / "checkpoints").glob("stage3_*")
    assert torch.load(checkpoint, weights_only=True)["iteration"] > 0
    assert not (out / "stage3.pt").exists()
