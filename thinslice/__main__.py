# SPDX-License-Identifier: Apache-2.0
"""The command ``thinslice``: every file in ``thinslice/commands`` is the subcommand of that name."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from . import commands
from .location import version
from .screen import CommandError

__all__ = ["app", "main"]

DEFAULT = "run"


class _RunsByDefault(TyperGroup):
    """``thinslice IN OUT`` means ``thinslice run IN OUT``."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="thinslice",
    cls=_RunsByDefault,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thinslice {version()}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 2 wrong usage, 3 some scan has no result, 4 nothing to process, 130 stopped.")
def _group(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn thick-slice MR scans into thin-slice ones: thinslice IN [OUT]. Research software, not a medical device."""


for _module in pkgutil.iter_modules(commands.__path__):
    app.command(_module.name)(importlib.import_module(f"{commands.__name__}.{_module.name}").command)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except CommandError as error:
        typer.echo(f"thinslice: {error}", err=True)
        sys.exit(error.code)
    except OSError as error:  # a path without permission, a full disk
        typer.echo(f"thinslice: {error.strerror or error}: {error.filename or 'no file named'}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
