# SPDX-License-Identifier: Apache-2.0
"""Handlers that show the progress of training, and end it if it fails."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers.tqdm_logger import ProgressBar
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

from ..networks.interpolation import interpolate_cubic

__all__ = ["StopOnNaN", "TrainingBar", "TrainingDivergedError", "ValidateAtIterations", "ValidationPictures"]


class TrainingDivergedError(RuntimeError):
    """Training has diverged; the last checkpoint is from before."""


class StopOnNaN:
    """End the run with an error if a scalar of the output is NaN or infinite."""

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Check every scalar of the output.

        Raises:
            TrainingDivergedError: if one is not finite; the message names it.
        """
        for name, value in engine.state.output.items():
            if isinstance(value, torch.Tensor) and value.ndim == 0 and not bool(torch.isfinite(value)):
                raise TrainingDivergedError(
                    f"{name} must be finite, got {value.item()} at iteration {engine.state.iteration}; lower the rate"
                )


class TrainingBar(ProgressBar):
    """Progress bar with the loss, one step per iteration. Only the first of several processes shows it."""

    def __init__(self, desc: str, rank: int = 0) -> None:
        super().__init__(desc=desc, persist=True, ncols=100, disable=True if rank else None)

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register with a trainer."""
        super().attach(engine, output_transform=lambda output: {"loss": output["loss"].item()})


class ValidateAtIterations(ValidationHandler):
    """Validate every ``interval`` iterations. In logs and plots, the trainer's iteration is the validator's epoch."""

    def __init__(self, interval: int, validator: Evaluator) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=False)

    def __call__(self, engine: Engine) -> None:
        """Run the validator."""
        assert self.validator is not None
        self.validator.run(engine.state.iteration)


class ValidationPictures:
    """Write validation patches as one picture, with thick slices, cubic interpolation, network and truth side by side.

    Args:
        writer: TensorBoard writer, or ``None`` to write nothing.
        count: number of patches, from the start of the validation set.
    """

    def __init__(self, writer: Any | None, count: int) -> None:
        self.writer = writer
        self.count = count
        self.rows: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Register with a validator."""
        if self.writer is None:
            return
        engine.add_event_handler(Events.STARTED, lambda _: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Any) -> None:
        output = engine.state.output
        positions = engine.state.batch["positions"][0].to(output["image"])
        for image, pred, label in zip(output["image"], output["pred"], output["label"], strict=True):
            if len(self.rows) < self.count:
                thick = image[..., positions.round().long().clamp(0, image.shape[-1] - 1)]
                cubic = interpolate_cubic(image, positions)
                self.rows.append(torch.cat([thick, cubic, pred[:1].float(), label], dim=-1).cpu())

    def _write(self, engine: Engine) -> None:
        if self.rows:
            picture = torch.cat(self.rows, dim=-2)
            self.writer.add_image(  # type: ignore[union-attr]
                "validation/thick_cubic_network_truth", (picture + 1).div(2).clamp(0, 1), engine.state.epoch
            )
