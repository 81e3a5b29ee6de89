# SPDX-License-Identifier: Apache-2.0
"""One call of ``thinslice view``: find the cases, then show or export them."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from ..location import BUNDLE  # noqa: F401  makes the bundle's package importable
from .cases import ViewerError, find_viewer_cases
from .export import export_case
from .server import ViewerServer

__all__ = ["Viewing"]


class Viewing:
    """The requested cases, as a context manager, because scans that are not NIfTI files are converted temporarily.

    Args:
        scan: output folder, scan, or folder of scans.
        result: result or folder of results, if ``scan`` is not an output folder.
        series: name of the only series to show.

    Raises:
        ViewerError: on entering, if there is nothing to show.
    """

    def __init__(self, scan: Path, result: Path | None, series: str | None = None) -> None:
        self.scan, self.result, self.series = scan, result, series

    def __enter__(self) -> Self:
        self._scratch = TemporaryDirectory(prefix="thinslice-view-")
        try:
            self.cases = find_viewer_cases(self.scan, self.result, Path(self._scratch.name))
            if self.series is not None:
                self.cases = [case for case in self.cases if case.name == self.series]
            if not self.cases:
                raise ViewerError(f"--series must be one that the output folder holds, got {self.series!r}")
            if len(self.cases) == 1:
                self.cases[0].stack()  # report files that do not belong together here, not in the browser
        except BaseException:
            self._scratch.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def serve(self, port: int, browser: bool, export_limit_mb: float) -> None:
        """Serve the page until Ctrl+C.

        Raises:
            ViewerError: if the port is taken.
        """
        report = (self.result or self.scan) / "report.html"
        try:
            server = ViewerServer(self.cases, port, report if report.is_file() else None, export_limit_mb)
        except (OSError, OverflowError) as error:
            raise ViewerError(f"--port must be a free port, got {port}; leave it out to get one") from error
        with server:
            print(f"{server.url}\nOnly this machine can open it. Ctrl+C stops it.", flush=True)
            if browser:
                webbrowser.open(server.url)
            with suppress(KeyboardInterrupt):
                server.serve_forever()

    def export(self, path: Path, limit_mb: float) -> None:
        """Write a single case as one HTML file.

        Raises:
            ViewerError: if there are several cases, if files cannot be read, or if they do not fit the limit.
        """
        from scripts.files import whole

        if len(self.cases) > 1:
            some = ", ".join(case.name for case in self.cases[:3])
            raise ViewerError(
                f"--export must be of one series, got {len(self.cases)}; choose with --series: {some}, ..."
            )
        with whole(path) as part, part.open("wb") as file:
            words = export_case(self.cases[0], file, limit_mb)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", *words, sep="\n  ")
