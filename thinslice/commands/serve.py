# SPDX-License-Identifier: Apache-2.0
"""``thinslice serve``: run a DICOM node that receives series, makes them thin and sends them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..screen import fail
from ..settings import parse_settings

__all__ = ["command"]


def command(
    title: Annotated[str, typer.Option("--aet", metavar="AET", help="AE title of the node.")] = "THINSLICE",
    port: Annotated[int, typer.Option(help="Port of the node.")] = 11112,
    address: Annotated[
        str, typer.Option(help="Address to listen at; by default all addresses of this machine.")
    ] = "0.0.0.0",
    send_to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AET@HOST:PORT",
            help="Where results go; may be repeated. This destination may also send to the node.",
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="AET[@HOST]", help="Another caller that may send, and its address; may be repeated."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file with rules and all other settings.")
    ] = None,
    spool: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that only the node uses, for images and state.")
    ] = Path("thinslice_spool"),
    http_address: Annotated[str, typer.Option(help="Address of /health and /metrics.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="Port of /health and /metrics; 0 takes a free one.")] = 11180,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Only print what would happen to the series of a folder.")
    ] = None,
    show_status: Annotated[
        bool, typer.Option("--status", help="Only list the series that are under way or dead.")
    ] = False,
    retry: Annotated[
        str | None, typer.Option(metavar="UID", help="Only try a dead series again: its UID, or its hash in --status.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="ID=VALUE", help="Set any id of batch_dicom.json, or of inference.json as inference::ID."
        ),
    ] = None,
) -> None:
    """Run a DICOM node: it receives series, makes them thin and sends them on, until it is stopped."""
    try:
        from ..node import serving
        from ..node.settings import SettingsError, check_title, parse_caller, parse_destination, read_settings
    except ModuleNotFoundError as error:
        fail(f'serve must have the package {error.name}; pip install "thinslice[node]"')

    if show_status:
        typer.echo("\n".join(serving.status(spool)))
        return
    if retry is not None:
        state = serving.retry(spool, retry)
        if state is None:
            fail("--retry must name a dead series whose images are still there; --status lists them", 3)
        typer.echo(f"the series is {state} again; a running node goes on with it")
        return
    try:
        found = read_settings(
            rules,
            dict(parse_caller(text) for text in accept or []),
            dict(parse_destination(text) for text in send_to or []),
            parse_settings(settings or []),
        )
        if dry_run is not None:
            if not dry_run.is_dir():
                fail(f"--dry-run must name a folder, got {dry_run}; correct the path")
            typer.echo("\n".join(serving.dry_run(found, spool, dry_run)))
            return
        try:
            from ..node.node import Listening
        except ModuleNotFoundError as error:
            fail(f'serve must have the package {error.name}; pip install "thinslice[node]"')
        raise typer.Exit(
            serving.serve(Listening(check_title(title), address, port, http_address, http_port), found, spool)
        )
    except SettingsError as error:
        fail(str(error))
