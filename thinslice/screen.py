# SPDX-License-Identifier: Apache-2.0
"""What a person sees: our own lines on the screen, everything that libraries say in a log file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import NoReturn, TextIO

import typer

__all__ = ["LOG", "Screen", "fail"]

LOG = "log.txt"


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to standard error and end the command.

    Raises:
        typer.Exit: with the code.
    """
    typer.echo(f"thinslice: {message}", err=True)
    raise typer.Exit(code)


class Screen:
    """Lines for a person.

    Args:
        out: where results are announced.
        err: where faults are told and progress is drawn.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out = out
        self.err = err

    def say(self, line: str) -> None:
        """One line to standard output."""
        print(line, file=self.out, flush=True)

    def warn(self, line: str) -> None:
        """One line to standard error."""
        print(line, file=self.err, flush=True)

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Let progress bars through to the terminal; they are drawn on nothing else."""
        with redirect_stderr(self.err):
            yield

    @classmethod
    @contextmanager
    def quiet(cls, log: Path | None) -> Iterator[Screen]:
        """Send all other output of this process, that of libraries written in C included, into a file.

        Args:
            log: the file, which is written anew; ``None`` leaves everything on the screen.
        """
        if log is None:
            yield cls(sys.stdout, sys.stderr)
            return
        _no_header_values_in_the_log()
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(1), os.dup(2)]
        streams = [open(number, "w", encoding=_encoding(), errors="replace", closefd=False) for number in kept]
        file = log.open("w", encoding="utf-8")
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        level = root.level
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            root.addHandler(handler)
            root.setLevel(logging.INFO)
            logging.captureWarnings(True)
            yield cls(*streams)
        finally:
            logging.captureWarnings(False)
            root.setLevel(level)
            root.removeHandler(handler)
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old, stream in zip((1, 2), kept, streams, strict=True):
                stream.flush()
                os.dup2(old, number)
                os.close(old)
            file.close()


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _no_header_values_in_the_log() -> None:
    """pydicom quotes the header values that it warns of, and those may be a patient's."""
    import warnings

    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
