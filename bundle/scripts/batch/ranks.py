# SPDX-License-Identifier: Apache-2.0
"""Several runners, on one machine or many, as ``torchrun`` starts them: who does what, and one report of all."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from torch import distributed

__all__ = ["Ranks"]

T = TypeVar("T")


class Ranks:
    """A group of runners; alone, and without any communication, where ``torchrun`` has not started it.

    Attributes:
        rank: 0 for the one that discovers, holds the lock and reports.
        size: how many there are.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))

    @property
    def first(self) -> bool:
        """Whether this is the one that reports."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        if self.size > 1:
            # a rank may wait for another for as long as the whole batch takes
            distributed.init_process_group("gloo", timeout=timedelta(days=30))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size > 1:
            distributed.destroy_process_group()

    def share(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks: a tree may change between two looks at it."""
        if self.size == 1:
            return make()
        box = [make() if self.first else None]
        distributed.broadcast_object_list(box)
        return box[0]  # type: ignore[return-value]

    def gather(self, part: list[Any]) -> list[Any]:
        """All ranks' lists as one, on rank 0; on the others their own."""
        if self.size == 1:
            return list(part)
        parts: list[Any] = [None] * self.size
        distributed.gather_object(part, parts if self.first else None)
        return [one for each in parts for one in each] if self.first else list(part)
