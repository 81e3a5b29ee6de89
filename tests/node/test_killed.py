# SPDX-License-Identifier: Apache-2.0
"""Many series, good, bad, twice, interleaved and cut off, and a node that is killed at random moments.

    NODE_SERIES=200 python -m pytest -s tests/node/test_killed.py

sends 200; by default there are few. The node is the real one with a network of a few weights, Orthanc receives.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import pydicom
import pytest

from tests.batch.conftest import ENVIRONMENT, SETTINGS, thick_series
from tests.dicom.synthetic import drop
from tests.node.conftest import cut_off, echo, free_port, orthanc, send, wait_for
from thinslice.node.ledger import Ledger
from thinslice.node.serving import status
from tools.dcmtk import dcmtk

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(3600)]

SERIES = int(os.environ.get("NODE_SERIES", "10"))
KILLS = 3
AWAY_SECONDS = min(60, SERIES / 2)  # of the receiver
SPACING_MM = 2.5
RULES = {
    "rules": [{"target_spacing_mm": SPACING_MM}],
    "complete": {"stable_seconds": 3, "interrupted_seconds": 30},
    "retry": {"first_seconds": 0.5, "longest_seconds": 2, "commitment_seconds": 20},
    "disk": {"free_gib": 0},
}
# every tenth series is one of each
BAD = {3: ("GAP", {"edit": drop(4)}), 6: ("LOCALIZER", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
       9: ("NO_RULE", {"modality": "CT"})}  # fmt: skip
# moments of derivation, which differ between two runs; everything else must be equal
MOMENTS = ("SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")


class Serve:
    """``thinslice serve`` in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.pacs = folder, free_port(), free_port()
        self.command = [
            sys.executable, "-m", "thinslice", "serve", "--aet", "THIN", "--address", "127.0.0.1",
            "--port", str(self.port), "--send-to", f"ORTHANC@127.0.0.1:{self.pacs}", "--accept", "SCANNER@127.0.0.1",
            "--http-port", "0", "--rules", str(folder / "rules.json"), "--spool", str(folder / "spool"),
        ]  # fmt: skip

    def start(self) -> None:
        with (self.folder / "node.log").open("a") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, env=ENVIRONMENT, stderr=log)
        wait_for(lambda: echo(self.port) or self.process.poll() is not None, 300)
        assert self.process.poll() is None, (self.folder / "node.log").read_text()[-2000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(tmp_path):
    one = Serve(tmp_path)
    yield one
    if one.process.poll() is None:
        one.process.terminate()
        one.process.wait(60)


def without_moments(dataset: pydicom.Dataset) -> pydicom.Dataset:
    for keyword in MOMENTS:
        del dataset[keyword]
    del dataset.ContributingEquipmentSequence[0].ContributionDateTime
    return dataset


def held(url: str) -> list[pydicom.Dataset]:
    """Everything that Orthanc has."""
    with urlopen(f"{url}/instances") as answer:
        names = json.load(answer)
    found = []
    for name in names:
        with urlopen(f"{url}/instances/{name}/file") as answer:
            found.append(without_moments(pydicom.dcmread(io.BytesIO(answer.read()))))
    return found


def make_jobs(folder: Path, reasons: Counter) -> list[Path]:
    """Folders to send one after the other; counts what must become of the bad series."""
    scan = folder / "scan"
    for i in range(SERIES):
        reason, options = BAD.get(i % 10, (None, {}))
        reasons.update([reason] if reason else [])
        thick_series(scan / f"{i:03d}", seed=f"s{i}", **options)
    jobs = []
    for i in range(SERIES):
        if i % 10 == 0:  # two series in one folder, so that their images alternate
            mixed = folder / f"interleaved{i:03d}"
            mixed.mkdir()
            for name in (f"{i:03d}", f"{i + 1:03d}"):
                for path in (scan / name).iterdir():
                    shutil.copy(path, mixed / f"{path.stem}-{name}.dcm")
            jobs.append(mixed)
        elif i % 10 > 1:
            jobs.append(scan / f"{i:03d}")
    return jobs + jobs[::7]  # some come twice


def test_every_derived_series_arrives_once_whatever_happens(tmp_path, weights, batch, serve):
    rng = random.Random(7)
    wanted_reasons = Counter({"INTERRUPTED": 1})
    jobs = make_jobs(tmp_path, wanted_reasons)
    thick_series(tmp_path / "given up", seed="given up")
    ids = {"ckpt_path": str(weights), **SETTINGS, "inference::self_check": False, "inference::error_map": False}
    (tmp_path / "rules.json").write_text(json.dumps({**RULES, "batch": ids}))
    deadly = rng.sample(range(1, len(jobs)), KILLS - 1)
    began = time.monotonic()
    with orthanc(tmp_path / "pacs", serve.pacs, serve.port) as url:
        serve.start()
        for number, job in enumerate(jobs):
            if number % 5 == 2:  # a sender that is cut off, and sends again below
                cut_off(serve.port, sorted(job.iterdir())[: rng.randrange(1, 6)])
            if number in deadly:
                command = [
                    dcmtk("storescu"),
                    "-aet",
                    "SCANNER",
                    "-aec",
                    "THIN",
                    "+sd",
                    "127.0.0.1",
                    str(serve.port),
                    job,
                ]
                with subprocess.Popen(command, stderr=subprocess.DEVNULL):
                    time.sleep(rng.uniform(0, 0.5))
                    serve.kill()
                serve.start()
            wait_for(lambda job=job: send(serve.port, job).returncode == 0)  # as a scanner's queue does
        cut_off(serve.port, sorted((tmp_path / "given up").iterdir())[:6])
        sent = time.monotonic() - began
    time.sleep(AWAY_SECONDS)
    with orthanc(tmp_path / "pacs", serve.pacs, serve.port) as url:
        time.sleep(rng.uniform(0, min(10, SERIES / 3)))  # the last kill comes while series are worked on and sent
        serve.kill()
        serve.start()
        bad = sum(wanted_reasons.values())
        dead = wanted_reasons["GAP"] + wanted_reasons["INTERRUPTED"]
        settled = {"acknowledged": SERIES + 1 - bad, "dead": dead, "ignored": bad - dead}
        ledger = Ledger(tmp_path / "spool" / "state.sqlite")
        try:
            wait_for(lambda: {str(k): v for k, v in ledger.counts().items() if v} == settled, 1800)
            reasons = Counter(row.reason for row in ledger.select("state IN ('dead', 'ignored')"))
        finally:
            ledger.close()
        seconds = time.monotonic() - began
        images = held(url)
    assert reasons == wanted_reasons
    listed = [line for line in status(tmp_path / "spool") if " dead " in line]
    assert sum("GAP: " in line for line in listed) == wanted_reasons["GAP"]
    # what the batch makes of the same folder, without a node
    assert batch(dataset_dir=tmp_path / "scan", pictures=0, **ids, **{"inference::target_spacing_mm": SPACING_MM}
                 ).returncode == 3  # fmt: skip
    wanted = [without_moments(pydicom.dcmread(path)) for path in (tmp_path / "out").glob("*/dicom/*.dcm")]
    wanted = {one.SOPInstanceUID: one for one in wanted}
    assert {one.SOPInstanceUID for one in images} == set(wanted)
    assert len(images) == len(wanted)
    for one in images:
        assert one == wanted[one.SOPInstanceUID]
    arrivals = Counter((tmp_path / "pacs" / "arrivals").read_text().split())
    twice = arrivals.total() - len(arrivals)
    assert twice <= KILLS + 1  # the one image that was under way at a kill, or when the receiver went
    series = len({one.SeriesInstanceUID for one in images})
    print(f"{SERIES + 1} series, {bad} of them bad, sent in {sent:.0f} s, all settled after {seconds:.0f} s, "
          f"{KILLS} kills, the receiver away for {AWAY_SECONDS:g} s: {series} derived series of {len(images)} images, "
          f"equal to the batch's; {twice} images came twice")  # fmt: skip
