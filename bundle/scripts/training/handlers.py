# SPDX-License-Identifier: Apache-2.0
"""Several handlers as one entry of a list. MONAI's check of a bundle requires every entry to be a component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine

__all__ = ["InOrder"]


class InOrder:
    """Attach handlers in order; each event reaches them in this order.

    Args:
        handlers: anything with ``attach``.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = list(handlers)

    def attach(self, engine: Engine) -> None:
        """Register all of them."""
        for handler in self.handlers:
            handler.attach(engine)
