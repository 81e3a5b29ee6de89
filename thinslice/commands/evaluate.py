# SPDX-License-Identifier: Apache-2.0
"""``thinslice evaluate HR [OUT]``: thin scans made thick, super-resolved, and compared with themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import parse_settings

__all__ = ["command"]


def command(
    truth: Annotated[Path, typer.Argument(metavar="HR", help="A thin-slice volume (thick, if in_plane), or a folder.")],
    output: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder for tables and pictures.")] = Path(
        "thinslice_eval"
    ),
    axis: Annotated[
        str,
        typer.Option(
            help="Plane of the thick slices: axial, coronal, sagittal, or in_plane for the slices of thick scans."
        ),
    ] = "axial",
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 or mps; by default a GPU if there is one.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="ID=VALUE", help="Set any id of evaluate.json.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show what libraries say.")] = False,
) -> None:
    """Measure the quality on thin-slice scans of your own: PSNR and SSIM beside cubic interpolation."""
    from ..evaluation import evaluate

    ids = parse_settings(settings or []) | ({"device": device} if device else {})
    raise typer.Exit(evaluate(truth, output, {"evaluation_axis": axis, **ids}, verbose))
