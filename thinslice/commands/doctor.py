# SPDX-License-Identifier: Apache-2.0
"""``thinslice doctor``: what is installed, what the machine has, and whether a made-up patient comes out right."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["command"]


def command(
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 or mps; by default a GPU if there is one.")] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show what libraries say.")] = False,
) -> None:
    """Check this installation: versions, devices, codecs, and a made-up patient with known truth."""
    from ..checkup import check

    raise typer.Exit(check(device, verbose))
