# SPDX-License-Identifier: Apache-2.0
"""Run the stages of training one after the other, each in a separate process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .location import BUNDLE, config_file
from .screen import CommandError, Screen, fail
from .settings import known_ids, parse_settings, refuse_unknown

__all__ = ["STAGES", "require_training_packages", "train"]

STAGES = (1, 2, 3)
STAGE_3_LENGTH = 8  # the paper: stages end at T, 2 T, 10 T
PACKAGES = ("torchvision", "lpips", "skimage", "tensorboard", "matplotlib")


def require_training_packages() -> None:
    """End the command with one line if a package of the extra ``train`` is missing."""
    if missing := [name for name in PACKAGES if not _is_installed(name)]:
        fail(f'training and evaluation need {", ".join(missing)}; pip install "thinslice[train]"')


def train(
    ct: Path,
    mr: Path,
    output: Path,
    iterations: int,
    stages: Sequence[int] = STAGES,
    overrides: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> int:
    """Run the stages. A finished stage takes a few seconds; a stage that was stopped is resumed.

    Args:
        ct: folder of CT.
        mr: folder of thick MR.
        output: folder for ``stage1.pt`` and so on, checkpoints, TensorBoard events, a log per stage and ``curves.png``.
        iterations: number of iterations of stages 1 and 2; stage 3 has eight times as many.
        stages: numbers of the stages to run.
        overrides: further config files, merged in order: names in the bundle's ``configs``, or paths.
        settings: ``ID=VALUE`` items; each goes to the stages that have the id, and at least one stage must have it.

    Returns:
        Exit code of the stage that ended the training, or 0.
    """
    require_training_packages()
    for folder in (ct, mr):
        if not folder.is_dir():
            fail(f"--ct and --mr must be folders, got {folder}; correct the path")
    if wrong := [stage for stage in stages if stage not in STAGES]:
        fail(f"--stage must be 1, 2 or 3, got {wrong[0]}")
    ids = parse_settings(settings)
    known = {stage: known_ids(ids, _files(stage, overrides)) for stage in stages}
    every_file = dict.fromkeys(file for stage in stages for file in _files(stage, overrides))
    refuse_unknown([name for name in ids if not any(name in own for own in known.values())], list(every_file))
    output.mkdir(parents=True, exist_ok=True)
    places = {"bundle_root": BUNDLE, "ct_dir": ct, "mr_dir": mr, "output_dir": output}
    for stage in stages:
        length = iterations * (STAGE_3_LENGTH if stage == STAGES[-1] else 1)
        log = output / f"log_stage{stage}.txt"
        print(f"stage {stage}: {length} iterations; log: {log}", flush=True)
        own = known[stage] | {name: str(place.resolve()) for name, place in places.items()}
        if code := _in_a_process(_files(stage, overrides), {**own, "stage_iterations": length}, log):
            print(f"stage {stage} has ended with code {code}; the same command resumes it", file=sys.stderr)
            return code
    from .curves import draw_curves, read_curves

    draw_curves(read_curves(output / "tensorboard"), output / "curves.png")
    print(f"curves: {output / 'curves.png'}\nweights: {output / f'stage{stages[-1]}.pt'}")
    return 0


def _in_a_process(files: Sequence[str], ids: Mapping[str, Any], log: Path) -> int:
    """Run a config in a separate process, so that no state of a stage reaches the next; returns its exit code.

    SIGTERM is passed on, and SIGINT reaches the stage directly; it then ends after its iteration with a checkpoint.
    """
    process = multiprocessing.get_context("spawn").Process(target=_run_stage, args=(list(files), dict(ids), log))
    process.start()
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        process.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = process.exitcode or 0
    return code if code >= 0 else 128 - code


def _run_stage(files: list[str], ids: dict[str, Any], log: Path) -> None:
    """Entry point of the process of a stage."""
    from monai.bundle import ConfigWorkflow

    try:
        with Screen.quiet(log) as screen:
            workflow = ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **ids)
            workflow.initialize()
            with screen.bars():
                workflow.run()
            workflow.finalize()
    except CommandError as error:
        print(f"thinslice: {error}", file=sys.stderr)
        sys.exit(error.code)


def _files(stage: int, overrides: Sequence[str]) -> list[str]:
    own = [path if os.sep in path or "/" in path else config_file(path) for path in overrides]
    return [config_file("common.json"), config_file(f"train_stage{stage}.json"), *own]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
