# SPDX-License-Identifier: Apache-2.0
"""Processes that end with the one that started them, whatever they are doing and however it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process

__all__ = ["end_with_starter"]

EXIT_ALONE = 72


def end_with_starter(check: Callable[[float], None] = lambda seconds: None, every_seconds: float | None = None) -> None:
    """Watch, in a thread of a process of ``multiprocessing``, over who started it.

    Args:
        check: called in the same thread with the seconds since now, for whatever else must be watched.
        every_seconds: how often; ``None`` never.
    """
    starter = parent_process()
    assert starter is not None

    def watch() -> None:
        seconds = 0.0
        while not connection.wait([starter.sentinel], every_seconds):
            seconds += every_seconds or 0
            check(seconds)
        os._exit(EXIT_ALONE)

    threading.Thread(target=watch, daemon=True).start()
