# SPDX-License-Identifier: Apache-2.0
"""Which way of computing the network is chosen, and that it is measured once."""

import io

import pytest
import torch
from scripts.networks.srnet import SRNet

from tests.conftest import TINY_NETWORK
from thinslice import quick
from thinslice.screen import Screen


@pytest.fixture
def screen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Screen(io.StringIO(), io.StringIO())


def fake_ways(monkeypatch, psnr_and_seconds):
    """Stand in for the network: each way has the PSNR and the seconds that are given here."""

    def attempt(way, device, ids, scan, truth):
        name = (way["engine"], way["autocast"])
        if name not in psnr_and_seconds:
            return {**way, "error": "not installed"}
        psnr, start, seconds = psnr_and_seconds[name]
        return {**way, "predict": lambda *_: None, "start_seconds": start, "seconds": seconds, "psnr_db": psnr}

    class Clock:
        """Each look at it costs so much; no way is then quicker than what it said."""

        now = 0.0
        step = 10.0

        def perf_counter(self):
            Clock.now += Clock.step
            return Clock.now

    monkeypatch.setattr(quick, "_try", attempt)
    monkeypatch.setattr(quick, "time", Clock())
    return Clock


def test_the_quickest_way_within_the_tolerance_is_chosen(monkeypatch):
    ways = {("torch", None): (30.0, 0, 4), ("torch", "bfloat16"): (29.985, 0, 2), ("openvino", None): (30.0, 0, 3)}
    fake_ways(monkeypatch, ways)
    assert quick.measure("cpu", {})["best"] == {"engine": "torch", "autocast": "bfloat16"}


def test_a_way_that_loses_quality_is_not_chosen_however_quick(monkeypatch):
    ways = {("torch", None): (30.0, 0, 4), ("torch", "bfloat16"): (29.97, 0, 1), ("openvino", None): (30.0, 0, 3)}
    fake_ways(monkeypatch, ways)
    assert quick.measure("cpu", {})["best"] == {"engine": "openvino", "autocast": None}


def test_a_start_that_takes_longer_than_it_saves_counts(monkeypatch):
    fake_ways(monkeypatch, {("torch", None): (30.0, 0, 4), ("openvino", None): (30.0, 1e6, 1)})
    assert quick.measure("cpu", {})["best"] == {"engine": "torch", "autocast": None}


def test_a_machine_that_is_too_slow_keeps_what_was_measured_in_time(monkeypatch):
    clock = fake_ways(monkeypatch, {("torch", None): (30.0, 0, 4), ("torch", "bfloat16"): (30.0, 0, 1)})
    clock.step = 1e6
    found = quick.measure("cpu", {})
    assert found["best"] == {"engine": "torch", "autocast": None}
    assert {way.get("error") for way in found["ways"][1:]} == {"not measured in time"}


def test_it_is_measured_once_for_each_set_of_weights(screen, monkeypatch, tmp_path):
    calls = []

    def measure(device, ids):
        calls.append((device, dict(ids)))
        return {"best": {"engine": "torch", "autocast": "bfloat16"}, "device": device, "ways": []}

    monkeypatch.setattr(quick, "measure", measure)
    for _ in range(2):
        found = quick.choose({"device": "cpu", "flips": True}, screen)
        assert found == {"engine": "torch", "autocast": "bfloat16"}
    (tmp_path / "own.pt").write_bytes(b"weights")
    own = {"device": "cpu", "ckpt_path": str(tmp_path / "own.pt")}
    quick.choose(own, screen)
    (tmp_path / "own.pt").write_bytes(b"trained further")
    quick.choose(own, screen)
    assert calls == [("cpu", {}), ("cpu", {"ckpt_path": own["ckpt_path"]}), ("cpu", {"ckpt_path": own["ckpt_path"]})]
    assert screen.out.getvalue().count("measuring once") == 3


@pytest.mark.parametrize("ids", [{"engine": "torch"}, {"autocast": None}, {"inferer::autocast": "float16"}])
def test_whoever_sets_engine_or_precision_has_chosen(ids, screen, monkeypatch):
    monkeypatch.setattr(quick, "measure", lambda *_: pytest.fail("nothing to measure"))
    assert quick.choose(ids, screen) == {}


def test_what_was_cut_short_is_measured_again(screen, monkeypatch):
    found = {"best": {"engine": "torch"}, "device": "cpu", "ways": [{"error": quick.TOO_LATE}]}
    calls = []
    monkeypatch.setattr(quick, "measure", lambda device, ids: calls.append(device) or found)
    for _ in range(2):
        assert quick.choose({"device": "cpu"}, screen) == {"engine": "torch"}
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_to_does_not_stop_the_run(screen, monkeypatch, tmp_path):
    (tmp_path / "thinslice").write_text("a file where the folder should be")
    monkeypatch.setattr(
        quick, "measure", lambda device, ids: {"best": {"engine": "torch"}, "device": device, "ways": []}
    )
    assert quick.choose({"device": "cpu"}, screen) == {"engine": "torch"}


@pytest.mark.slow
def test_the_measurement_itself(tmp_path):
    torch.manual_seed(0)
    torch.save(SRNet(**TINY_NETWORK).state_dict(), tmp_path / "tiny.pt")
    size = {f"network_def::{name}": value for name, value in TINY_NETWORK.items()}
    found = quick.measure("cpu", {**size, "ckpt_path": str(tmp_path / "tiny.pt")})
    exact, half = found["ways"][:2]
    assert exact["psnr_db"] == pytest.approx(half["psnr_db"], abs=0.02)
    assert exact["psnr_db"] != half["psnr_db"]  # it was computed in another precision
    assert min(way["seconds"] for way in found["ways"] if "error" not in way) > 0
