# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from which a stage is resumed as if it had never stopped."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from ..files import whole
from .batches import IterationBatches
from .weights import save_weights

__all__ = ["StageCheckpoint", "load_newest", "whole_steps"]


def whole_steps(interval: int, accumulation_steps: int) -> int:
    """``interval`` iterations, rounded up to the end of an accumulation, at which the optimiser steps."""
    return -(-interval // accumulation_steps) * accumulation_steps


def load_newest(folder: str, stage: str, state: Mapping[str, Any]) -> Path:
    """Load a part of the newest checkpoint of a stage.

    Args:
        folder: folder of the checkpoints.
        stage: name of the stage.
        state: name in the checkpoint to anything with ``load_state_dict``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = _checkpoints(Path(folder), stage)
    if not found:
        raise FileNotFoundError(f"{folder} must hold a checkpoint of {stage}, got none; run the stage first")
    content = torch.load(found[-1], map_location="cpu", weights_only=True)
    for name, item in state.items():
        item.load_state_dict(content[name])
    return found[-1]


def _checkpoints(folder: Path, stage: str) -> list[Path]:
    """Checkpoints of a stage, oldest first."""
    paths = [p for p in folder.glob(f"{stage}_*.pt") if p.stem.rpartition("_")[2].isdigit()]
    return sorted(paths, key=lambda p: int(p.stem.rpartition("_")[2]))


class StageCheckpoint:
    """Save the training state at intervals, resume from the newest checkpoint, and write the weights at the end.

    The order of the data has no state (see :mod:`scripts.data.patches`). Everything else is saved: networks,
    optimisers, schedulers, the gradient scaler, the random state of torch and the iteration. Files are written under a
    temporary name and renamed, so the previous checkpoint stays complete if the process is killed at any moment.

    SIGTERM and SIGINT end the run after the current iteration with a checkpoint. The exit code is 128 + signal number.
    Several processes all end after the same iteration, whichever of them received the signal. A checkpoint holds no
    gradients, so it is never written in the middle of an accumulation (the trainer's ``accumulation_steps``), but after
    the next step of the optimiser.

    Args:
        state: name to anything with ``state_dict`` and ``load_state_dict``.
        output_dir: folder for ``checkpoints/<stage>_<iteration>.pt`` and, at the end, ``<stage>.pt``.
        stage: name of the stage, for example ``stage1``.
        interval: iterations between checkpoints, rounded up to whole accumulations.
        keep: number of the newest checkpoints to keep.
        batches: sampler, whose start is set when a stage is resumed.
        final_network: network whose state dict is saved as ``<stage>.pt``.
        resume: resume from the newest checkpoint, if there is one.
        rank: rank of this process; rank 0 writes, all ranks read.

    Raises:
        ValueError: when training starts, if the stage would end in the middle of an accumulation or before the
            iteration of the checkpoint.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        output_dir: str,
        stage: str,
        interval: int,
        batches: IterationBatches,
        final_network: nn.Module,
        keep: int = 2,
        resume: bool = True,
        rank: int = 0,
    ) -> None:
        self.state = dict(state)
        self.folder = Path(output_dir) / "checkpoints"
        self.stage = stage
        self.interval = interval
        self.batches = batches
        self.final_network = final_network
        self.final_path = Path(output_dir) / f"{stage}.pt"
        self.keep = keep
        self.resume = resume
        self.write = rank == 0
        self.stop_signal = 0
        self.logger = logging.getLogger(type(self).__name__)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose one epoch is the whole stage, and which has ``accumulation_steps``."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_if_due)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_asked)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def save(self, engine: Engine) -> None:
        """Write one checkpoint and remove the oldest."""
        if not self.write:
            return
        content = {name: item.state_dict() for name, item in self._all(engine).items()}
        with whole(self.folder / f"{self.stage}_{engine.state.iteration}.pt") as part:
            torch.save({"iteration": engine.state.iteration, "rng": torch.get_rng_state(), **content}, part)
        for old in _checkpoints(self.folder, self.stage)[: -self.keep]:
            old.unlink()

    def _save_if_due(self, engine: Any) -> None:
        if engine.state.iteration % whole_steps(self.interval, engine.accumulation_steps) == 0:
            self.save(engine)

    def _all(self, engine: Engine) -> dict[str, Any]:
        # MONAI's Trainer resets its own scaler at every start, so the joint trainer's has another name
        scaler = getattr(engine, "gradient_scaler", None) or getattr(engine, "scaler", None)
        return self.state if scaler is None else {**self.state, "scaler": scaler}

    def _started(self, engine: Any) -> None:
        if self.batches.iterations % engine.accumulation_steps:
            raise ValueError(
                f"stage_iterations must be a multiple of accumulation_steps, got {self.batches.iterations} and "
                f"{engine.accumulation_steps}; change one of them"
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        self.logger.info("%s can be stopped by SIGTERM or Ctrl-C, which leave a checkpoint", self.stage)
        found = _checkpoints(self.folder, self.stage)
        if not (self.resume and found):
            return
        content = torch.load(found[-1], map_location="cpu", weights_only=True)
        if content["iteration"] > self.batches.iterations:
            raise ValueError(
                f"stage_iterations must be >= {content['iteration']}, where {found[-1]} stands, got "
                f"{self.batches.iterations}; raise it, or give another output_dir"
            )
        for name, item in self._all(engine).items():
            item.load_state_dict(content[name])
        torch.set_rng_state(content["rng"])
        engine.state.iteration = content["iteration"]
        self.batches.start = content["iteration"]
        self.logger.info("%s goes on from iteration %d (%s)", self.stage, content["iteration"], found[-1])
        if content["iteration"] == self.batches.iterations:
            engine.state.epoch = engine.state.max_epochs  # only the final weights remain to be written

    def _remember(self, number: int, _frame: object) -> None:
        self.stop_signal = number

    def _stop_if_asked(self, engine: Any) -> None:
        if engine.state.iteration % engine.accumulation_steps:
            return
        asked = self._signal_of_any_process(engine)
        if asked:
            self.save(engine)
            self.logger.warning("stopped by signal %d at iteration %d", asked, engine.state.iteration)
            raise SystemExit(128 + asked)

    def _signal_of_any_process(self, engine: Any) -> int:
        if not dist.is_initialized():
            return self.stop_signal
        asked = torch.tensor(self.stop_signal, device=engine.state.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return int(asked)

    def _completed(self, engine: Engine) -> None:
        if engine.state.iteration != self.batches.iterations:
            return  # ended early, for example by NaN: an unfinished stage has no final weights
        self.save(engine)
        if self.write:
            save_weights(self.final_network, self.final_path)
            self.logger.info("%s done: %s", self.stage, self.final_path)
