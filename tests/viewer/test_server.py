# SPDX-License-Identifier: Apache-2.0
"""Who can read what: the server as a stranger, a wrong page and a browser meet it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT, make_affine, save_nifti, smooth_volume
from tests.viewer.conftest import serving, write_pair
from thinslice.viewer.cases import ViewerCase, cases_in_output


def ask(server, path, method="GET", **headers):
    """Status, headers and body of a request that is sent as it is, unlike urllib's, which tidies paths up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_nothing_without_the_token(server):
    for path in (
        "/",
        "/series.json",
        "/x/series.json",
        f"/{server.token[:-1]}/",
        f"/{server.token}x/series.json",
        "//",
    ):
        status, _, body = ask(server, path)
        assert status == 403, path
        assert server.token.encode() not in body
    assert ask(server, f"/{server.token}/")[0] == 200


def test_loopback_only_and_a_random_port(phantom_pair):
    cases = cases_in_output(phantom_pair)
    with serving(cases) as one, serving(cases) as two:
        assert one.server_address[0] == two.server_address[0] == "127.0.0.1"
        assert one.server_port != two.server_port
        assert one.token != two.token
        assert len(one.token) >= 32
        listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}


def test_a_page_under_another_name_gets_nothing(server):
    # what a foreign site would send after pointing its own name at 127.0.0.1
    assert ask(server, f"/{server.token}/", Host=f"evil.example:{server.server_port}")[0] == 403
    assert ask(server, f"/{server.token}/", Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("path", [
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
    "case/0/../../../../etc/passwd",
    "case/0/%2e%2e%2fhead_quality.json", "case/0/head_quality.json", "case/1.json", "case/-1.json", "case/0/quality",
    "vendor/README.md", "app.js/../server.py", "case/999999999999.json", "case/0/acquired/x", "report.html",
])  # fmt: skip
def test_no_other_file_is_reachable(server, path):
    assert ask(server, f"/{server.token}/{path}")[0] == 404


def test_every_answer_is_locked_down(server):
    for path in ("", "app.js", "series.json", "case/0.json", "case/0/result", "nothing"):
        headers = ask(server, f"/{server.token}/{path}")[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(server, f"/{server.token}/", "POST")[0] == 501


def test_ranges_are_those_of_the_file(server, phantom_pair):
    whole = (phantom_pair / "head_sr.nii.gz").read_bytes()
    path = f"/{server.token}/case/0/result"
    n = len(whole)
    assert ask(server, path)[2] == whole
    for header, first, last in (
        ("bytes=0-9", 0, 9), ("bytes=100-", 100, n - 1), ("bytes=-7", n - 7, n - 1), (f"bytes=5-{n + 99}", 5, n - 1)
    ):  # fmt: skip
        status, headers, body = ask(server, path, Range=header)
        assert (status, body) == (206, whole[first : last + 1])
        assert headers["Content-Range"] == f"bytes {first}-{last}/{n}"
    for header in (f"bytes={n}-", "bytes=9-3", "bytes=-0", "bytes=-", "lines=1-2"):
        status, headers, _ = ask(server, path, Range=header)
        assert (status, headers["Content-Range"]) == (416, f"bytes */{n}")
    status, headers, body = ask(server, path, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(n), b"")


def test_the_case_tells_names_and_no_paths(server, phantom_pair):
    case = ask(server, f"/{server.token}/case/0.json")[2].decode()
    assert json.loads(case)["name"] == "head"
    assert str(phantom_pair) not in case
    assert str(phantom_pair.parent) not in ask(server, f"/{server.token}/series.json")[2].decode()


@pytest.mark.slow
def test_memory_stays_flat_while_a_large_volume_is_read(tmp_path):
    """A file of 2 GB, read by two clients at once, by the command in a process of its own."""
    write_pair(tmp_path, "big", smooth_volume((8, 8, 16)), make_affine([1, 1, 1]))
    os.truncate(tmp_path / "big_sr.nii.gz", 2_000_000_000)  # a hole: takes no room on the disk
    code = (
        "import sys; from pathlib import Path; from thinslice.viewer.cases import ViewerCase;"
        "from thinslice.viewer.server import ViewerServer;"
        "s = ViewerServer([ViewerCase('big', Path(sys.argv[1]), Path(sys.argv[1]))]);"
        "print(s.server_port, s.token, flush=True); s.serve_forever()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "big_sr.nii.gz")], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bundle")])},
    )  # fmt: skip
    try:
        port, token = process.stdout.readline().split()
        before = psutil.Process(process.pid).memory_info().rss
        clients = []
        for role in ("acquired", "result"):
            client = socket.create_connection(("127.0.0.1", int(port)))
            client.sendall(f"GET /{token}/case/0/{role} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            clients.append(client)
        peak, read = before, [0, 0]
        while min(read) < 1_000_000_000:
            for i, client in enumerate(clients):
                read[i] += len(client.recv(1 << 20))
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        for client in clients:
            client.close()
        print(
            f"resident memory of the server: {before / 2**20:.0f} MiB, {peak / 2**20:.0f} MiB while it sends 2 x 1 GB"
        )
        assert peak - before < 24 * 2**20
    finally:
        process.kill()
        process.wait()


def test_the_report_of_a_batch_keeps_its_own_scripts(tmp_path, phantom_pair):
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    with serving(cases_in_output(phantom_pair), report=report) as server:
        status, headers, body = ask(server, f"/{server.token}/report.html")
        assert (status, body) == (200, b"<p>report</p>")
        assert "connect-src" not in headers["Content-Security-Policy"]


def test_all_pages_of_a_long_report_and_nothing_else_beside_them(tmp_path, phantom_pair):
    report = tmp_path / "report.html"
    report.write_text("<p>first</p>")
    for name in ("report/00002.html", "report/names.csv", "report.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"<p>{name}</p>")
    with serving(cases_in_output(phantom_pair), report=report) as server:
        assert ask(server, f"/{server.token}/report/00002.html")[::2] == (200, b"<p>report/00002.html</p>")
        for name in ("report/00003.html", "report/names.csv", "report/../report.csv", "report.csv", "report"):
            assert ask(server, f"/{server.token}/{name}")[0] == 404, name


def test_files_of_unlike_scans_are_named_not_shown(phantom_pair, tmp_path):
    other = save_nifti(tmp_path / "x.nii.gz", smooth_volume((9, 9, 9)), make_affine([1, 1, 4]))
    with serving([ViewerCase("mixed", other, phantom_pair / "head_sr.nii.gz")]) as server:
        answer = json.loads(ask(server, f"/{server.token}/case/0.json")[2])
        assert "must share the in-plane grid" in answer["error"]
