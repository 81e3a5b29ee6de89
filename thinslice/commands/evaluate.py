# SPDX-License-Identifier: Apache-2.0
"""``thinslice evaluate HR [OUT]``: make thin scans thick, super-resolve them and compare with the originals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import parse_settings

__all__ = ["command"]


def command(
    truth: Annotated[
        Path, typer.Argument(metavar="HR", help="A thin-slice volume (a thick one with --axis in_plane), or a folder.")
    ],
    output: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder for tables and pictures.")] = Path(
        "thinslice_eval"
    ),
    axis: Annotated[
        str,
        typer.Option(
            help="Plane of the thick slices: axial, coronal or sagittal; in_plane takes the slices of thick scans."
        ),
    ] = "axial",
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 or mps; by default a GPU if there is one.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="ID=VALUE", help="Set any id of evaluate.json.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show messages of libraries.")] = False,
) -> None:
    """Measure the quality on your own thin-slice scans: PSNR and SSIM, compared with cubic interpolation."""
    from ..evaluation import evaluate

    ids = parse_settings(settings or []) | ({"device": device} if device else {})
    raise typer.Exit(evaluate(truth, output, {"evaluation_axis": axis, **ids}, verbose))
