# SPDX-License-Identifier: Apache-2.0
"""Orthanc at both ends, with storage commitment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.batch.conftest import thick_series
from tests.batch.test_orthanc import PROGRAM
from tests.node.conftest import free_port, send, settings, states, wait_for

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_orthanc_commits_itself(tmp_path, node):
    if not Path(PROGRAM).exists():
        pytest.skip("orthanc is not installed")
    thick_series(tmp_path / "scan")
    http, dicom = free_port(), free_port()
    destination = {"ORTHANC": {"host": "127.0.0.1", "port": dicom, "commitment": "required"}}
    one = node(settings(destinations=destination, retry={"first_seconds": 0.5, "commitment_seconds": 60}))
    content = {
        "StorageDirectory": str(tmp_path / "store"), "IndexDirectory": str(tmp_path / "store"), "HttpPort": http,
        "DicomPort": dicom, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomModalities": {"node": ["THIN", "127.0.0.1", one.port]},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(content))
    with (
        (tmp_path / "orthanc.log").open("w") as log,
        subprocess.Popen([PROGRAM, str(tmp_path / "orthanc.json")], stdout=log, stderr=log) as process,
    ):
        try:
            assert send(one.port, tmp_path / "scan").returncode == 0
            wait_for(lambda: states(one) == {"acknowledged": 1}, 180)
            (row,) = one.ledger.select()
            assert row.message == "storage commitment"
            with urlopen(f"http://127.0.0.1:{http}/statistics") as answer:
                assert json.load(answer)["CountInstances"] == 18
        finally:
            process.terminate()
            process.wait(60)
