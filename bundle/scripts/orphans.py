# SPDX-License-Identifier: Apache-2.0
"""End a process when the process that started it ends, whatever either is doing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process

__all__ = ["end_with_starter"]

EXIT_ALONE = 72


def end_with_starter(check: Callable[[float], None] = lambda seconds: None, every_seconds: float | None = None) -> None:
    """End this process of ``multiprocessing`` when its parent ends. A thread watches the parent.

    Args:
        check: further check, called in the same thread with the seconds since the start of the watch.
        every_seconds: interval of these checks; ``None`` makes none.
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
