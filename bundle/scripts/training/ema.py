# SPDX-License-Identifier: Apache-2.0
"""Running average of the weights. It varies less than the weights themselves, and it is validated and saved."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """After every iteration: ``average <- d average + (1 - d) network``, ``d = min(decay, (1 + n) / (10 + n))``.

    The bound depends on ``n``, the iterations so far. It lets the average follow the weights in a short run.

    Args:
        network: network that is trained.
        average: copy of it that receives the average and is not trained.
        decay: d; 0 copies the network, 0.999 averages over about a thousand iterations.
    """

    def __init__(self, network: nn.Module, average: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {decay}; correct the id")
        self.network = network
        self.average = average.requires_grad_(False).eval()
        self.decay = decay

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Update the average."""
        n = engine.state.iteration
        decay = min(self.decay, (1 + n) / (10 + n))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for kept, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(current)
