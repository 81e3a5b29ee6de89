# SPDX-License-Identifier: Apache-2.0
"""``thinslice batch IN OUT``: a PACS export, with derived DICOM and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..settings import parse_settings

__all__ = ["command"]


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A folder tree that may hold any files; nothing is written to it.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A folder for the results, apart from IN.")],
    workers: Annotated[int, typer.Option(help="Number of processes on this machine.")] = 1,
    executor: Annotated[str, typer.Option(help="local, or dask for a cluster that is already running.")] = "local",
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address of the scheduler of the Dask cluster.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compute in float32 with PyTorch.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="ID=VALUE", help="Set any id of batch_dicom.json, or of inference.json as inference::ID."
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show messages of libraries.")] = False,
) -> None:
    """Process a PACS export: NIfTI and derived DICOM for each thick series, and a report on all series."""
    from ..archive import run_batch

    ids = {"workers": workers, "executor": executor, "scheduler": scheduler, **parse_settings(settings or [])}
    raise typer.Exit(run_batch(source, output, ids, exact, verbose))
