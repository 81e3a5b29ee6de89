# SPDX-License-Identifier: Apache-2.0
"""``thinslice train``: run all three stages on a folder of CT and a folder of thick MR."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for weights, checkpoints and curves.")],
    ct: Annotated[Path, typer.Option(help="Folder of CT scans, NIfTI or DICOM.")],
    mr: Annotated[Path, typer.Option(help="Folder of thick-slice MR scans, NIfTI or DICOM.")],
    iterations: Annotated[int, typer.Option(min=1, help="Iterations T of stages 1 and 2; stage 3 has 8 T.")],
    stages: Annotated[list[int] | None, typer.Option("--stage", help="Only this stage; may be repeated.")] = None,
    configs: Annotated[
        list[str] | None, typer.Option("--config", help="A further config file, such as smoke.json; may be repeated.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="ID=VALUE", help="Set any id of the training configs.")
    ] = None,
) -> None:
    """Train on your own scans. If started again, it resumes where it stopped."""
    from ..training import STAGES, train

    raise typer.Exit(train(ct, mr, output, iterations, stages or STAGES, configs or [], settings or []))
