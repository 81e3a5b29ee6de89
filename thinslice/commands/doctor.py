# SPDX-License-Identifier: Apache-2.0
"""``thinslice doctor``: check what is installed, what the machine has, and the result for a made-up patient."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["command"]


def command(
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 or mps; by default a GPU if there is one.")] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show messages of libraries.")] = False,
) -> None:
    """Check this installation: versions, devices, codecs, speed, and a made-up patient with known truth."""
    from ..checkup import check

    raise typer.Exit(check(device, verbose))
