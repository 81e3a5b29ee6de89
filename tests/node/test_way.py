# SPDX-License-Identifier: Apache-2.0
"""A series' way through the node, with dcmtk's programs at both ends."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from tests.batch.conftest import thick_series
from tests.dicom.synthetic import drop
from tests.node.conftest import echo, free_port, received, send, settings, states, storescp, wait_for

pytestmark = pytest.mark.system


def test_what_is_sent_comes_back_thin(tmp_path, node):
    array, _ = thick_series(tmp_path / "scan", seed="a")
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port))
        assert echo(one.port)
        result = send(one.port, tmp_path / "scan")
        assert result.returncode == 0, result.stderr
        wait_for(lambda: states(one) == {"acknowledged": 1})
    images = received(pacs)
    assert len(images) == 2 * array.shape[2]
    source = pydicom.dcmread(next((tmp_path / "scan").iterdir()))
    assert {image.StudyInstanceUID for image in images} == {source.StudyInstanceUID}
    assert {image.SeriesInstanceUID for image in images} != {source.SeriesInstanceUID}
    assert images[0].ImageType[0] == "DERIVED"
    back = np.stack([image.pixel_array.T for image in images], axis=2)
    assert (back == np.repeat(array, 2, axis=2)).all()
    # nothing of the patient is kept
    assert not list((tmp_path / "spool").rglob("*.dcm"))


def test_bad_series_between_good_ones_are_listed_with_their_reason(tmp_path, node):
    for name in ("a", "b"):
        thick_series(tmp_path / "scan" / name, seed=name)
    thick_series(tmp_path / "scan" / "gap", seed="gap", edit=drop(4))
    thick_series(tmp_path / "scan" / "ct", seed="ct", modality="CT")
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port))
        assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 2, "dead": 1, "ignored": 1})
    assert len(received(pacs)) == 2 * 18
    (dead,) = one.ledger.select("state = 'dead'")
    (ignored,) = one.ledger.select("state = 'ignored'")
    assert dead.reason == "GAP"
    assert ignored.reason == "NO_RULE"
