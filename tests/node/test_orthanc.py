# SPDX-License-Identifier: Apache-2.0
"""Orthanc at the receiving end, with storage commitment."""

from __future__ import annotations

import json
from urllib.request import urlopen

import pytest

from tests.batch.conftest import thick_series
from tests.node.conftest import free_port, orthanc, send, settings, states, wait_for

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_orthanc_commits_itself(tmp_path, node):
    thick_series(tmp_path / "scan")
    port = free_port()
    destination = {"ORTHANC": {"host": "127.0.0.1", "port": port, "commitment": "required"}}
    one = node(settings(destinations=destination, retry={"first_seconds": 0.5, "commitment_seconds": 60}))
    with orthanc(tmp_path / "pacs", port, one.port) as url:
        assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 1}, 180)
        (row,) = one.ledger.select()
        assert row.message == "storage commitment"
        with urlopen(f"{url}/statistics") as answer:
            assert json.load(answer)["CountInstances"] == 18
        assert len((tmp_path / "pacs" / "arrivals").read_text().split()) == 18
