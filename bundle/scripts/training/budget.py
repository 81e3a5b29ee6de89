# SPDX-License-Identifier: Apache-2.0
"""Train for a given processor time instead of a number of iterations, so that methods can be compared fairly."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from .batches import IterationBatches

__all__ = ["ProcessorBudget", "processor_seconds", "rate_factor"]


def processor_seconds(device: torch.device) -> float:
    """Clock of a budget: CPU-seconds of all threads of this process; on a GPU, seconds of the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def rate_factor(spent: float, warm_up: float = 0.05) -> float:
    """Factor of the learning rate when a fraction of the budget is spent: a short rise, then half a cosine to 0."""
    if spent < warm_up:
        return 0.04 + 0.96 * spent / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (spent - warm_up) / (1 - warm_up))))


class ProcessorBudget:
    """Complete a stage at the first optimiser step after its budget is spent.

    Until then, the learning rates follow :func:`rate_factor`.

    The clock starts at the first iteration, so the reading of volumes does not count. At least one iteration is done.
    The time of other processes is not counted, so ``num_workers`` must be 0 for a fair budget.

    Args:
        seconds: processor seconds (:func:`processor_seconds`).
        optimizers: all optimisers. Their learning rates at the start of training are the highest ones.
        batches: sampler of the stage, whose number of iterations is reduced to those that were done.
        device: device of the training.

    Raises:
        ValueError: if the budget is not positive.
    """

    def __init__(self, seconds: float, optimizers: Sequence[Optimizer], batches: IterationBatches, device: str) -> None:
        if not seconds > 0:
            raise ValueError(f"budget must be > 0 processor seconds, got {seconds}; raise it")
        self.seconds = seconds
        self.optimizers = optimizers
        self.batches = batches
        self.device = torch.device(device)
        self.started: float | None = None
        self.rates: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer that has ``accumulation_steps``."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_rates)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_if_spent)

    def _set_rates(self, _: Engine) -> None:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        if self.started is None:
            self.started = processor_seconds(self.device)
            self.rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * rate_factor(self._spent())

    def _end_if_spent(self, engine: Any) -> None:
        if self._spent() >= 1 and engine.state.iteration % engine.accumulation_steps == 0:
            self.batches.iterations = engine.state.iteration
            engine.terminate()

    def _spent(self) -> float:
        assert self.started is not None
        return (processor_seconds(self.device) - self.started) / self.seconds
