# SPDX-License-Identifier: Apache-2.0
"""Curves of training and validation in TensorBoard, written by the first process only."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

__all__ = ["Curves", "open_writer"]


def open_writer(output_dir: str, stage: str, rank: int = 0) -> SummaryWriter | None:
    """Open the TensorBoard writer of a stage in ``output_dir/tensorboard/<stage>``.

    The result is ``None`` in all processes except the first. Every handler that takes a ``writer`` does nothing
    without one.
    """
    return None if rank else SummaryWriter(log_dir=f"{output_dir}/tensorboard/{stage}")


class Curves:
    """Log every scalar of a trainer's output, and every metric of a validator.

    Args:
        writer: TensorBoard writer, or ``None`` to log nothing.
        interval: iterations between points of a trainer; ``None`` for a validator, which has one point per run.
    """

    def __init__(self, writer: Any | None, interval: int | None = None) -> None:
        self.writer = writer
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or a validator."""
        if self.writer is None:
            return
        if self.interval is None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._metrics)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._scalars)

    def _scalars(self, engine: Any) -> None:
        for name, value in engine.state.output.items():
            if isinstance(value, torch.Tensor) and value.ndim == 0:
                self.writer.add_scalar(name, value.item(), engine.state.iteration)  # type: ignore[union-attr]

    def _metrics(self, engine: Any) -> None:
        for name, value in engine.state.metrics.items():
            self.writer.add_scalar(name, value, engine.state.epoch)  # type: ignore[union-attr]
