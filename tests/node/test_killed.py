# SPDX-License-Identifier: Apache-2.0
"""Many series, good, bad, twice, interleaved and cut off, and a node that is killed at random moments.

    NODE_SERIES=200 python -m pytest -s tests/node/test_killed.py

sends 200; by default there are few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from scripts.dicom.discovery import discover

from tests.batch.conftest import ENVIRONMENT, thick_series
from tests.dicom.synthetic import drop
from tests.node.conftest import echo, free_port, received, send, storescp, wait_for
from tests.node.stub import provenance, thin
from thinslice.node.ledger import Ledger

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(3600)]

SERIES = int(os.environ.get("NODE_SERIES", "10"))
KILLS = 3
RULES = {
    "complete": {"stable_seconds": 3, "interrupted_seconds": 600},
    "retry": {"first_seconds": 0.5, "longest_seconds": 2},
    "disk": {"free_gib": 0},
}


def start(folder: Path, port: int, pacs: int) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "tests.node.stub", "serve", "--aet", "THIN", "--address", "127.0.0.1",
        "--port", str(port), "--send-to", f"PACS@127.0.0.1:{pacs}", "--accept", "SCANNER@127.0.0.1",
        "--http-port", "0", "--rules", str(folder / "rules.json"), "--spool", str(folder / "spool"),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=(folder / "node.log").open("a"))
    wait_for(lambda: echo(port) or process.poll() is not None, 300)
    assert process.poll() is None, (folder / "node.log").read_text()[-2000:]
    return process


def expected(folder: Path) -> dict[str, pydicom.Dataset]:
    """What the worker makes of every series, without the node, by instance UID."""
    from scripts.dicom.reading import read_series
    from scripts.dicom.writing import write_series

    found = {}
    for number, series in enumerate(discover(folder, min_slices=4).series):
        volume = read_series(series)
        out = folder.parent / "expected" / str(number)
        array, affine = thin(volume.array, volume.affine_ras)
        write_series(out, array, affine, series, provenance("2026-01-02T03:04:05+00:00"), 2)
        found |= {one.SOPInstanceUID: one for one in map(pydicom.dcmread, out.iterdir())}
    return found


def test_every_derived_series_arrives_once_whatever_happens(tmp_path):
    rng = random.Random(7)
    bad = 0
    for i in range(SERIES):
        options = {"edit": drop(4)} if i % 10 == 3 else {}
        bad += bool(options)
        thick_series(tmp_path / "scan" / f"{i:03d}", seed=f"s{i}", **options)
    interleaved = tmp_path / "interleaved"  # two series in one folder, so that their images alternate
    interleaved.mkdir()
    for name in ("000", "001"):
        for path in (tmp_path / "scan" / name).iterdir():
            shutil.copy(path, interleaved / f"{path.stem}-{name}.dcm")
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    jobs = [interleaved, *sorted((tmp_path / "scan").iterdir())[2:]]
    jobs += jobs[1:3]  # these come twice
    port, pacs = free_port(), free_port()
    deadly = sorted(rng.sample(range(1, len(jobs)), KILLS))
    began = time.monotonic()
    with storescp(tmp_path / "pacs", pacs) as folder:
        node = start(tmp_path, port, pacs)
        try:
            for number, job in enumerate(jobs):
                if number in deadly:
                    sending = subprocess.Popen(
                        ["storescu", "-aet", "SCANNER", "-aec", "THIN", "+sd", "127.0.0.1", str(port), job],
                        stderr=subprocess.DEVNULL,
                    )
                    time.sleep(rng.uniform(0, 0.5))
                    node.kill()
                    node.wait()
                    sending.wait(120)
                    node = start(tmp_path, port, pacs)
                wait_for(lambda job=job: send(port, job).returncode == 0)  # as a scanner's queue does
            sent = time.monotonic() - began
            ledger = Ledger(tmp_path / "spool" / "state.sqlite")
            settled = {"acknowledged": SERIES - bad, "dead": bad}
            try:
                wait_for(lambda: {str(k): v for k, v in ledger.counts().items() if v} == settled, 1800)
                reasons = [row.reason for row in ledger.select("state = 'dead'")]
            finally:
                ledger.close()
        finally:
            node.terminate()
            node.wait(60)
    print(f"{SERIES} series sent in {sent:.0f} s, all settled after {time.monotonic() - began:.0f} s, {KILLS} kills")
    assert reasons == ["GAP"] * bad
    wanted = expected(tmp_path / "scan")
    images = received(folder)
    twice = len(images) - len({one.SOPInstanceUID for one in images})
    assert twice <= KILLS  # the one image that was under way at a kill, with the same bytes
    assert {one.SOPInstanceUID for one in images} == set(wanted)
    for one in images:
        assert one == wanted[one.SOPInstanceUID]
        assert (one.pixel_array == wanted[one.SOPInstanceUID].pixel_array).all()
    print(f"{len(wanted)} derived images, {twice} of them sent twice")
