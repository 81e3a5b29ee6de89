# SPDX-License-Identifier: Apache-2.0
"""The server of the viewer. Only this machine can reach it, and it answers only requests that contain the token.

A request names a case by its number and a file by its role, so no path in a request is ever looked up on the disk.
Volumes are streamed from the disk.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from .cases import ViewerCase, ViewerError
from .export import export_case
from .page import FILES, POLICY, linked_page

__all__ = ["ViewerServer"]

CHUNK = 1 << 20
# report.html contains its script, style and pictures
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
REPORT_PAGE = re.compile(r"report/\d{5}\.html", re.ASCII)  # the further pages of report.html
CASE = re.compile(r"case/(\d{1,9})(?:\.json|/(acquired|result|map|export\.html))")


class ViewerServer(ThreadingHTTPServer):
    """Serves cases on the loopback interface.

    Args:
        cases: the cases that can be shown.
        port: port to listen at; 0 takes a free one.
        report: ``report.html`` of the batch, if there is one.
        export_limit_mb: largest file that the page's export button makes, in MB of 10^6 bytes.
    """

    daemon_threads = True

    def __init__(
        self, cases: Sequence[ViewerCase], port: int = 0, report: Path | None = None, export_limit_mb: float = 25.0
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.cases = list(cases)
        self.report = report
        self.export_limit_mb = export_limit_mb
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """Address of the page, including the token."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    server_version = "thinslice"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing, because addresses contain the token."""

    def _answer(self) -> None:
        # a foreign page may resolve its own host name to this address (DNS rebinding), so other names are refused
        if self.headers.get("Host") not in {f"{host}:{self.server.server_port}" for host in ("127.0.0.1", "localhost")}:
            return self._error(HTTPStatus.FORBIDDEN)
        _, token, *rest = (urlsplit(self.path).path + "/").split("/", 2)
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return self._error(HTTPStatus.FORBIDDEN)
        name = rest[0].removesuffix("/") if rest else ""
        if name == "":
            return self._text(linked_page(), "text/html")
        if name in FILES:
            path, kind = FILES[name]
            return self._file(path, f"{kind}; charset=utf-8")
        if name == "series.json":
            return self._json(
                {
                    "series": [
                        {"id": i, "name": case.name, "summary": case.summary}
                        for i, case in enumerate(self.server.cases)
                    ],
                    "report": self.server.report is not None,
                }
            )
        if name == "report.html" and self.server.report is not None:
            return self._file(self.server.report, "text/html; charset=utf-8", policy=REPORT_POLICY)
        if REPORT_PAGE.fullmatch(name) and self.server.report is not None:
            return self._file(self.server.report.parent / name, "text/html; charset=utf-8", policy=REPORT_POLICY)
        match = CASE.fullmatch(name)
        if match is None or int(match[1]) >= len(self.server.cases):
            return self._error(HTTPStatus.NOT_FOUND)
        return self._case(int(match[1]), match[2])

    def _case(self, number: int, role: str | None) -> None:
        case = self.server.cases[number]
        if role is None:
            try:
                return self._json(describe(case, f"case/{number}/"))
            except ViewerError as error:
                return self._json({"name": case.name, "error": str(error)})
        if role == "export.html":
            return self._export(case)
        path = {"acquired": case.acquired, "result": case.result, "map": case.map}[role]
        if path is None:
            return self._error(HTTPStatus.NOT_FOUND)
        return self._file(path, "application/octet-stream")

    def _export(self, case: ViewerCase) -> None:
        with TemporaryFile() as file:
            try:
                export_case(case, file, self.server.export_limit_mb)
            except ViewerError as error:
                return self._text(str(error), "text/plain", HTTPStatus.UNPROCESSABLE_ENTITY)
            name = re.sub(r"[^A-Za-z0-9._-]", "_", case.export_name)
            disposition = {"Content-Disposition": f'attachment; filename="{name}.html"'}
            self._stream(file, file.tell(), "text/html; charset=utf-8", POLICY, disposition)

    def _json(self, content: object) -> None:
        self._text(json.dumps(content), "application/json")

    def _text(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode()
        self._head(status, f"{kind}; charset=utf-8", len(body), POLICY)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: HTTPStatus) -> None:
        self._text(f"{status.value} {status.phrase}\n", "text/plain", status)

    def _file(self, path: Path, kind: str, policy: str = POLICY) -> None:
        try:
            with path.open("rb") as file:
                self._stream(file, path.stat().st_size, kind, policy, {})
        except FileNotFoundError:
            self._error(HTTPStatus.NOT_FOUND)

    def _stream(self, file: BinaryIO | Any, size: int, kind: str, policy: str, headers: dict[str, str]) -> None:
        first, last, status = 0, size - 1, HTTPStatus.OK
        if wanted := self.headers.get("Range"):
            span = _byte_range(wanted, size)
            if span is None:
                headers = {"Content-Range": f"bytes */{size}"}
                return self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, kind, 0, policy, headers)
            first, last = span
            status = HTTPStatus.PARTIAL_CONTENT
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        left = last - first + 1
        self._head(status, kind, left, policy, {"Accept-Ranges": "bytes", **headers})
        if self.command == "HEAD":
            return None
        file.seek(first)
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            self.wfile.write(chunk)
            left -= len(chunk)
        if left > 0:  # the file became shorter, and the browser must not wait for the rest
            self.close_connection = True
        return None

    def _head(
        self, status: HTTPStatus, kind: str, length: int, policy: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(length),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()


def describe(case: ViewerCase, prefix: str = "") -> dict[str, Any]:
    """Description of a case for the page.

    Args:
        case: the case.
        prefix: start of the addresses of its volumes.

    Raises:
        ViewerError: if its files do not belong together.
    """
    roles = [role for role in ("acquired", "result", "map") if role != "map" or case.map is not None]
    return {
        "name": case.name,
        "export_name": case.export_name,
        "stack": case.stack().to_json(),
        "verdict": case.verdict(),
        "map": case.map_label(),
        "volumes": {role: prefix + role for role in roles},
    }


def _byte_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range (RFC 9110), or ``None`` if it cannot be satisfied."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match[0].endswith("=-"):
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        return (size - count, size - 1) if count else None
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return (first, last) if first <= last and first < size else None
