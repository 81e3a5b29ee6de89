# SPDX-License-Identifier: Apache-2.0
"""A server's series become a tree of whole series, once."""

from __future__ import annotations

import pydicom
import pytest
from scripts.dicom.discovery import discover
from scripts.dicom.reading import read_series
from scripts.dicom.web import fetch_series

from tests.dicom.synthetic import ramp_series, write_series

ARRAY, AFFINE = ramp_series()


class Server:
    """Speaks like dicomweb-client's class, about files."""

    def __init__(self, *series) -> None:
        self.series = [[pydicom.dcmread(path) for path in files] for files in series]
        self.sent = 0
        self.lost = 0

    def search_for_series(self, search_filters, fields, limit, offset):
        assert search_filters == {"Modality": "MR"}
        return [
            {
                "0020000D": {"Value": [one[0].StudyInstanceUID]},
                "0020000E": {"Value": [one[0].SeriesInstanceUID]},
                "00201209": {"Value": [len(one)]},
            }
            for one in self.series[offset : offset + 1]  # pages of one, whatever is asked for
        ]

    def iter_series(self, study, series, media_types):
        (one,) = [one for one in self.series if one[0].SeriesInstanceUID == series]
        assert one[0].StudyInstanceUID == study
        for dataset in one[: len(one) - self.lost]:
            self.sent += 1
            yield dataset


def test_every_series_is_fetched_once(tmp_path):
    files = [write_series(tmp_path / name, ARRAY, AFFINE, seed=name) for name in "ab"]
    server = Server(files[0], files[1][:-1])
    assert fetch_series("", tmp_path / "in", client=server) == 2
    assert fetch_series("", tmp_path / "in", client=server) == 0
    found = discover(tmp_path / "in").series
    (whole,) = discover(tmp_path / "a").series
    (same,) = [one for one in found if one.key == whole.key]
    assert (read_series(same).array == read_series(whole).array).all()
    server.series[1].append(pydicom.dcmread(files[1][-1]))  # the last slice arrives late
    server.sent = 0
    assert fetch_series("", tmp_path / "in", client=server) == 1
    assert server.sent == len(files[1])
    assert sorted(len(one.files) for one in discover(tmp_path / "in").series) == [len(files[0])] * 2


def test_a_series_that_breaks_off_is_not_there(tmp_path):
    server = Server(write_series(tmp_path / "a", ARRAY, AFFINE))
    server.lost = 1
    with pytest.raises(OSError, match="must send"):
        fetch_series("", tmp_path / "in", client=server)
    assert not list((tmp_path / "in").glob("[0-9a-f]*"))
    server.lost = 0
    assert fetch_series("", tmp_path / "in", client=server) == 1
    assert len(discover(tmp_path / "in").series) == 1
