# SPDX-License-Identifier: Apache-2.0
"""The self-check as a step of the inference: what it writes, what it changes, and what it refuses."""

import json
import logging

import numpy as np
import pytest
import torch
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.interpolation import interpolate_cubic
from scripts.quality.self_check import SaveQualityd, SelfCheckd
from scripts.quality.words import faults_in_words
from scripts.reasons import CaseError, Reason
from scripts.transforms.orient import slice_grid

from tests.conftest import oriented_scan, smooth_volume

GENEROUS = {
    "gain_over_cubic_db": {"at_least": -100}, "gain_over_consistent_cubic_db": {"at_least": -100},
    "noise_sigma": {"at_most": 1}, "ghosting": {"at_most": 1}, "detail_db": {"at_least": -100},
    "spikes_db": {"at_most": 200}, "motion_pixels": {"at_most": 100},
    "odd_even_step": {"at_most": 1}, "largest_step": {"at_most": 10},
}  # fmt: skip


@pytest.fixture
def scan():
    volume = torch.from_numpy(smooth_volume((80, 80, 10), seed=4, detail=0.6)) / 800 - 1
    image = oriented_scan(volume, 2.5, (1.0, 1.0, 2.5))
    image.meta["filename_or_obj"] = "sub/a.nii.gz"
    return image


def noisy(image, positions, condition):
    """A network that is worse than cubic interpolation, and expects an error of 0.01."""
    cubic = interpolate_cubic(image, positions)
    wave = 0.2 * torch.cos(torch.arange(cubic.shape[-1]) * 2.0)
    return torch.cat([cubic + wave, torch.full_like(cubic, np.log(0.01))], dim=1)


def check(scan, network=noisy, limits=None, when_worse="warn", **settings):
    inferer = ThroughPlaneInferer("box", progress=False, error_map=True)
    result = inferer(scan[None], network)[0]
    step = SelfCheckd(
        "pred", inferer=inferer, device="cpu", when_worse=when_worse, limits={**GENEROUS, **(limits or {})},
        **{"size": (24, 40), "margin": 10, "patches": 6, "cost": 1.0, "coverage": 0.9, "gain_exponent": 0.35,
           "widening": 0.0, "profile": "box", **settings},
    )  # fmt: skip
    return result, step({"pred": result[:1].clone(), "image": scan, "error": result[1:].clone()})


def test_the_error_map_covers_what_the_network_did_not_expect(scan):
    before, data = check(scan)
    factor = data["quality"]["error_map"]["factor"]
    assert factor > 5  # it expects 0.01 and errs by up to 0.2
    tissue = before[1] > 0
    torch.testing.assert_close(data["error"][0][tissue], factor * before[1][tissue])
    torch.testing.assert_close(data["pred"], before[:1])  # the policy is to warn
    assert data["quality"]["predicted_gain_db"] < 0
    assert data["quality"]["result"] == "network"


def test_the_interval_is_wider_where_slices_are_many_pixels_thick(scan):
    factors = [check(scan, widening=w)[1]["quality"]["error_map"]["factor"] for w in (0.0, 0.2)]
    assert factors[1] / factors[0] == pytest.approx(1 + 0.2 * (slice_grid(scan).scale_factor - 2))


def test_every_number_stands_beside_its_limit_and_only_those_beyond_it_are_flagged(scan):
    _, data = check(scan, limits={"ghosting": {"at_most": -1}, "noise_sigma": {"at_most": 0.9}})
    quality = data["quality"]
    assert set(quality["numbers"]) == set(GENEROUS)
    assert quality["numbers"]["noise_sigma"]["at_most"] == 0.9
    assert quality["flags"] == ["ghosting"]
    assert quality["withheld"] is None


def test_cubic_is_written_where_it_is_better_and_the_map_is_its_own(scan, caplog):
    limits = {"gain_over_consistent_cubic_db": {"at_least": 0}}
    with caplog.at_level(logging.INFO):
        _, data = check(scan, limits=limits, when_worse="cubic")
    positions = torch.tensor(slice_grid(scan).positions, dtype=torch.float32)
    torch.testing.assert_close(data["pred"][0], interpolate_cubic(scan.as_tensor()[0], positions))
    assert data["quality"]["result"] == scan.meta["quality"]["result"] == "cubic"
    assert "cubic interpolation is written" in caplog.text
    assert data["quality"]["error_map"]["factor"] < check(scan)[1]["quality"]["error_map"]["factor"]


def test_refusal_has_a_reason_code(scan):
    with pytest.raises(CaseError) as error:
        check(scan, limits={"gain_over_consistent_cubic_db": {"at_least": 0}}, when_worse="refuse")
    assert error.value.reason is Reason.WORSE_THAN_CUBIC


def test_motion_between_slices_withholds_the_prediction(scan):
    alike, moved = scan.clone(), scan.clone()
    alike[:] = moved[:] = scan[..., 4:5]
    moved[..., 1::2] = alike[..., 1::2].roll(2, dims=1)
    still, restless = (check(s, limits={"motion_pixels": {"at_most": 1.0}})[1]["quality"] for s in (alike, moved))
    assert still["withheld"] is None
    assert still["predicted_gain_db"] is not None
    assert restless["predicted_gain_db"] is None
    assert "motion_pixels" in restless["withheld"]
    assert restless["numbers"]["motion_pixels"]["value"] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("never", [{"detail_db": {"at_least": 50}}, {"spikes_db": {"at_most": -1}}])
def test_slices_that_mislead_withhold_the_prediction_and_a_sentence_says_so(scan, never, caplog):
    with caplog.at_level(logging.WARNING):
        quality = check(scan, limits=never)[1]["quality"]
    (name,) = never
    assert quality["flags"] == [name]
    assert quality["predicted_gain_db"] is None
    assert name in quality["withheld"]
    assert "no prediction" in caplog.text
    flag, withheld = faults_in_words(quality)
    assert name in flag
    assert "is not predicted" in withheld
    assert faults_in_words(check(scan)[1]["quality"]) == []


def test_cost_bounds_the_patches_and_the_same_seed_gives_the_same(scan):
    _, few = check(scan, cost=0.02)
    assert few["quality"]["patches"] < 6
    assert check(scan)[1]["quality"] == check(scan)[1]["quality"]
    assert check(scan)[1]["quality"] != check(scan, seed=1)[1]["quality"]


def test_off_does_nothing_and_a_file_is_written_where_it_was_on(scan, tmp_path):
    _, data = check(scan, enabled=False)
    assert "quality" not in data
    _, data = check(scan)
    data["pred"] = oriented_scan(data["pred"][0], 2.5)
    data["pred"].meta["filename_or_obj"] = "sub/a.nii.gz"
    SaveQualityd("pred", str(tmp_path))(data)
    assert json.loads((tmp_path / "sub" / "a_quality.json").read_text()) == data["quality"]


@pytest.mark.parametrize(("settings", "message"), [
    ({"when_worse": "stop"}, "when_worse must be one of"),
    ({"limits": {"speed": {"at_most": 1}}}, "quality_limits must name"),
    ({"patches": 0}, "patches must be >= 1"),
    ({"widening": -0.1}, "widening and gain_exponent >= 0"),
    ({"gain_exponent": -0.1}, "widening and gain_exponent >= 0"),
])  # fmt: skip
def test_nonsense_is_refused(scan, settings, message):
    with pytest.raises(ValueError, match=message):
        check(scan, **settings)
