# SPDX-License-Identifier: Apache-2.0
"""``/health`` and ``/metrics`` (Prometheus text format) over HTTP."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Counts", "Monitor", "metrics_text"]

COUNTERS = {
    "images_received_total": "Images answered with success.",
    "images_copies_total": "Of those, images that the node already had.",
    "images_refused_total": "Images answered with a failure.",
    "associations_rejected_total": "Unknown callers and failed TLS handshakes.",
    "images_sent_total": "Derived images that a destination answered with success.",
    "send_failures_total": "Attempts to send a series that failed.",
    "work_failures_total": "Attempts to work on a series that failed.",
    "errors_total": "Errors of the node itself; the log names them.",
}
GAUGES = {
    "series": "Series by state.",
    "spool_bytes": "Size of the images in the spool.",
    "free_bytes": "Free space of the spool's file system.",
    "oldest_seconds": "Age of the series that has waited longest in its state, by state.",
    "healthy": "1 while /health says ok.",
}
PREFIX = "thinslice_node_"


class Counts:
    """Counters that only grow."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))

    def add(self, name: str, number: int = 1) -> None:
        """Increase a counter."""
        assert name in COUNTERS
        with self.lock:
            self.values[name] += number


def metrics_text(counts: Counts, gauges: Mapping[str, float | dict[str, float]]) -> str:
    """Prometheus' text format.

    Args:
        counts: the counters.
        gauges: name to value; a dictionary is one gauge with the label ``state``.
    """
    lines = []
    for name, value in counts.values.items():
        lines += [
            f"# HELP {PREFIX}{name} {COUNTERS[name]}",
            f"# TYPE {PREFIX}{name} counter",
            f"{PREFIX}{name} {value}",
        ]
    for name, found in gauges.items():
        lines += [f"# HELP {PREFIX}{name} {GAUGES[name]}", f"# TYPE {PREFIX}{name} gauge"]
        if isinstance(found, dict):
            lines += [f'{PREFIX}{name}{{state="{state}"}} {number:g}' for state, number in found.items()]
        else:
            lines.append(f"{PREFIX}{name} {found:.17g}")
    return "\n".join(lines) + "\n"


class Monitor:
    """The HTTP server.

    Args:
        address: address to listen at.
        port: port to listen at; 0 takes a free one.
        problems: returns one line for each present problem; none means healthy.
        metrics: returns the text of ``/metrics``.

    Raises:
        OSError: if the port is not available.
    """

    def __init__(self, address: str, port: int, problems: Callable[[], list[str]], metrics: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path == "/health":
                    found = problems()
                    body = json.dumps({"status": "trouble" if found else "ok", "problems": found})
                    self._answer(503 if found else 200, "application/json", body)
                elif self.path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
                else:
                    self._answer(404, "text/plain", "/health or /metrics\n")

            def _answer(self, code: int, kind: str, body: str) -> None:
                data = body.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: a scrape comes every few seconds."""

        self.server = ThreadingHTTPServer((address, port), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, name="monitor", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
