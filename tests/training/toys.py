# SPDX-License-Identifier: Apache-2.0
"""Small things whose every number can be computed by hand."""

import time

import torch
from ignite.engine import Engine, Events
from torch import nn

POSITIONS = (-0.25, 0.25, 0.75, 1.25)  # of four thin slices over two thick ones


def wait_until_signals_are_handled(process, seconds=300):
    """Until a stage that was started, with its output in a pipe, says that it has its handlers."""
    deadline, shown = time.time() + seconds, b""
    while b"can be stopped by SIGTERM" not in shown:
        part = process.stdout.read1(1000)
        assert part, shown.decode()  # it has ended
        assert time.time() < deadline
        shown += part


class Scale(nn.Module):
    """``F(x) = w x`` at the nearest slices, and a second channel of sevens; keeps what it is told."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(w)))

    def forward(self, image, positions, condition):
        self.told = (tuple(positions.tolist()), condition.tolist())
        thin = self.w * image[..., torch.floor(positions + 0.5).long()]
        return torch.cat([thin, torch.full_like(thin, 7.0)], dim=1)


class Recorder:
    """A TensorBoard writer that keeps what it is given: ``tag -> [(step, value)]``."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(tag, []).append((step, value))

    def add_image(self, tag, image, step):
        self.images.setdefault(tag, []).append((step, image))


def engine(iteration=None, accumulation_steps=1):
    """A trainer that does what ``iteration(number)`` says and gives its result as output."""

    def update(running, _):
        return iteration(running.state.iteration) if iteration else {}

    made = Engine(update)
    made.accumulation_steps = accumulation_steps
    return made


def run(made, iterations):
    made.run([0] * iterations, max_epochs=1, epoch_length=iterations)
    return made


__all__ = ["POSITIONS", "Events", "Recorder", "Scale", "engine", "run"]
