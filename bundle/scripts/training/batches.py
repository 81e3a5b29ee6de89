# SPDX-License-Identifier: Apache-2.0
"""The order of the training data: iteration ``t`` takes a fixed part of the patch list."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

__all__ = ["IterationBatches"]


class IterationBatches(Sampler[list[int]]):
    """Batch sampler that can start at any iteration.

    Iteration ``t`` of all processes together takes patches ``t * B * W`` to ``(t + 1) * B * W - 1``; process ``rank``
    takes the ``rank``-th block of ``B`` of them. So W processes with batch B see the same patches as one process with
    batch B * W.

    Args:
        iterations: number of iterations of the stage.
        batch_size: B, per process.
        rank: rank of this process.
        world_size: W, the number of processes.

    Attributes:
        start: first iteration; set when a stage is resumed.
    """

    def __init__(self, iterations: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if iterations < 1 or batch_size < 1:
            raise ValueError(f"stage_iterations and batch_size must be >= 1, got {iterations} and {batch_size}")
        self.iterations = iterations
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start = 0

    def __len__(self) -> int:
        return self.iterations - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in range(self.start, self.iterations):
            first = (iteration * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
