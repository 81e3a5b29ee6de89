# SPDX-License-Identifier: Apache-2.0
"""``thinslice mercure``: run as a processing module of the DICOM router mercure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", envvar="MERCURE_IN_DIR", help="Folder of DICOM, task.json.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", envvar="MERCURE_OUT_DIR", help="Folder for derived DICOM.")],
) -> None:
    """Process one task of mercure: DICOM in IN, settings in IN/task.json, derived DICOM in OUT."""
    from ..mercure import process

    raise typer.Exit(process(source, output))
