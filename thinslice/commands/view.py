# SPDX-License-Identifier: Apache-2.0
"""``thinslice view OUT`` or ``thinslice view SCAN RESULT``: show acquired and thin slices side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..screen import fail

__all__ = ["command"]


def command(
    scan: Annotated[
        Path, typer.Argument(metavar="OUT|SCAN", help="The output folder of a run; or a scan, or a folder of scans.")
    ],
    result: Annotated[
        Path | None, typer.Argument(metavar="[RESULT]", help="The result of SCAN, or the folder with the results.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one self-contained HTML file, and end.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="Show or export this series only.")] = None,
    limit: Annotated[
        float, typer.Option("--limit", metavar="MB", help="Largest size of an export; volumes are reduced to it.")
    ] = 25.0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
) -> None:
    """See acquired and thin slices side by side in the browser. Nothing leaves this machine."""
    from ..viewer.cases import ViewerError
    from ..viewer.viewing import Viewing

    try:
        with Viewing(scan, result, series) as viewing:
            if export is None:
                viewing.serve(port, browser, limit)
            else:
                viewing.export(export, limit)
    except ViewerError as error:
        fail(str(error))
