# SPDX-License-Identifier: Apache-2.0
"""``thinslice view``: acquired and thin slices side by side in the browser."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.files import whole

from .cases import ViewerCase, ViewerError, find_viewer_cases
from .export import export_case
from .server import ViewerServer

__all__ = ["add_arguments", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument(
        "scan", type=Path, metavar="OUT|SCAN", help="output folder of a batch; or a scan (NIfTI, DICOM)"
    )
    parser.add_argument("result", type=Path, nargs="?", help="the thin slices of that scan, or a folder of results")
    parser.add_argument("--series", help="name of the one series to export")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write one self-contained HTML file, and end")
    parser.add_argument("--export-limit-mb", type=float, default=25.0, help="its largest size (default: %(default)g)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--port", type=int, default=0, help="of the loopback interface (default: a free one)")


def run(arguments: argparse.Namespace) -> int:
    """Show or export; returns the exit code."""
    with TemporaryDirectory(prefix="thinslice-view-") as scratch:
        try:
            cases = find_viewer_cases(arguments.scan, arguments.result, Path(scratch))
            if arguments.series is not None:
                cases = [case for case in cases if case.name == arguments.series]
                if not cases:
                    raise ViewerError(f"series {arguments.series!r} must be one of the output folder; correct the name")
            if arguments.export is not None:
                return _export(arguments, cases)
            if len(cases) == 1:
                cases[0].stack()  # files that do not belong together are said here, not in the browser
            output = arguments.result or arguments.scan
            report = output / "report.html"
            server = ViewerServer(
                cases, arguments.port, report if report.is_file() else None, arguments.export_limit_mb
            )
        except ViewerError as error:
            print(f"thinslice view: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"thinslice view: port {arguments.port} must be free, got {error.strerror}", file=sys.stderr)
            return 2
        with server:
            print(f"{server.url}\nOnly this machine can open it. Stop with Ctrl+C.", flush=True)
            if not arguments.no_browser:
                webbrowser.open(server.url)
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    return 0


def _export(arguments: argparse.Namespace, cases: Sequence[ViewerCase]) -> int:
    if len(cases) != 1:
        names = ", ".join(case.name for case in cases[:5])
        raise ViewerError(f"an export must hold one series, got {len(cases)}; choose with --series: {names}, ...")
    with whole(arguments.export) as part, part.open("wb") as file:
        words = export_case(cases[0], file, arguments.export_limit_mb)
    size = arguments.export.stat().st_size
    print(f"{arguments.export} ({size / 1e6:.1f} MB)", *words, sep="\n  ")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command by itself: ``python -m thinslice.viewer``."""
    parser = argparse.ArgumentParser(prog="thinslice view", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))
