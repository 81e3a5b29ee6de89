# SPDX-License-Identifier: Apache-2.0
"""The screen: lines of the command itself appear on it, and messages of libraries go to a log file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import NoReturn, TextIO

__all__ = ["LOG", "CommandError", "Screen", "fail"]

LOG = "log.txt"


class CommandError(Exception):
    """The command cannot continue; ``main`` prints the message in one line and ends the process with the code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with one line on standard error.

    Raises:
        CommandError: with the line and the exit code.
    """
    raise CommandError(message, code)


class Screen:
    """Lines for the user.

    Args:
        out: stream for results.
        err: stream for faults and progress bars.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out = out
        self.err = err

    def say(self, line: str) -> None:
        """Print one line to standard output."""
        print(line, file=self.out, flush=True)

    def warn(self, line: str) -> None:
        """Print one line to standard error."""
        print(line, file=self.err, flush=True)

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Let progress bars through to the terminal; they are not drawn on anything else."""
        with redirect_stderr(self.err):
            yield

    @classmethod
    @contextmanager
    def quiet(cls, log: Path | None) -> Iterator[Screen]:
        """Redirect all other output of this process, including that of libraries in C, to a file.

        Args:
            log: the file, which is overwritten; ``None`` leaves everything on the screen.
        """
        if log is None:
            yield cls(sys.stdout, sys.stderr)
            return
        _no_header_values_in_the_log()
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(1), os.dup(2)]
        streams = [open(number, "w", encoding=_encoding(), errors="replace", closefd=False) for number in kept]  # noqa: SIM115
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
        except CommandError:
            raise
        except Exception as error:
            logging.getLogger(__name__).exception("unexpected")
            raise CommandError(f"{_cause(error)}; {log} has the details", 1) from error
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


def _cause(error: BaseException) -> str:
    """Type and first line of an exception, without MONAI's wrapping."""
    while error.__cause__ is not None and str(error).startswith("Failed to "):
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _no_header_values_in_the_log() -> None:
    """Silence pydicom, whose warnings quote header values, which may be patient data."""
    import warnings

    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
