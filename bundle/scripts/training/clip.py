# SPDX-License-Identifier: Apache-2.0
"""Clip gradients, so that a single batch cannot change the weights too much."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

__all__ = ["GradientClipping"]


class GradientClipping:
    """Scale the gradient to at most ``max_norm`` (L2 over all parameters) before each optimiser step.

    Iterations that only accumulate are not clipped: their gradient is incomplete, and may still be scaled.

    Args:
        network: network whose gradients are clipped.
        max_norm: largest norm; infinity clips nothing.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a trainer that fires :class:`IterationEvents` and has ``accumulation_steps``."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip, if the optimiser steps in this iteration."""
        if engine.state.iteration % engine.accumulation_steps == 0:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
