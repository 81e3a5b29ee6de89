# SPDX-License-Identifier: Apache-2.0
"""``thinslice fuse STACK STACK [STACK] OUT``: fuse the stacks of one session into one volume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..screen import fail
from ..settings import parse_settings

__all__ = ["command"]


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="STACK STACK [STACK] OUT",
            help="Two or more thick stacks (NIfTI files or DICOM series); the last path is the folder for the result.",
        ),
    ],
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 or mps; by default a GPU if there is one.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="ID=VALUE", help="Set any id of fuse.json or inference.json.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show messages of libraries.")] = False,
) -> None:
    """Fuse stacks of different planes, one session and one contrast into one thin-slice volume."""
    from ..fusion import fuse

    *stacks, output = paths
    if len(stacks) < 2:
        fail(f"fuse must have at least two stacks and a folder for the result, got {len(paths)} paths; name them")
    for stack in stacks:
        if not stack.exists():
            fail(f"STACK must exist, got {stack}; correct the path")
    if output.exists() and not output.is_dir():
        fail(f"OUT must be a folder, got the file {output}; give another path")
    ids = parse_settings(settings or []) | ({"device": device} if device else {})
    raise typer.Exit(fuse(stacks, output, ids, verbose))
