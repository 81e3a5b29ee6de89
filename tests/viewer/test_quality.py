# SPDX-License-Identifier: Apache-2.0
"""The self-check's file in words, whatever it holds."""

import json

import pytest

from tests.viewer.conftest import QUALITY
from thinslice.viewer.quality import error_map_label, read_verdict


def write(tmp_path, content):
    path = tmp_path / "a_quality.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def verdict(tmp_path, **changes):
    return read_verdict(write(tmp_path, {**QUALITY, **changes}))


def test_no_file_no_verdict(tmp_path):
    assert read_verdict(None) is None
    assert read_verdict(tmp_path / "missing.json") is None


@pytest.mark.parametrize(("gain", "words"), [
    (1.24, "this result to be 1.2 dB nearer the truth"), (0.01, "this result to be no nearer the truth"),
    (-0.4, "this result to be 0.4 dB farther from the truth"), (None, "no prediction: the scan has no tissue"),
])  # fmt: skip
def test_the_gain_in_words(tmp_path, gain, words):
    assert words in verdict(tmp_path, predicted_gain_db=gain)["summary"]


def test_why_a_prediction_is_withheld(tmp_path):
    found = verdict(tmp_path, predicted_gain_db=None, withheld="slices do not fit together (motion_pixels)")
    assert found["summary"] == "The self-check makes no prediction: slices do not fit together (motion_pixels)."


def test_flags_with_their_limits(tmp_path):
    (warning,) = verdict(tmp_path)["warnings"]
    assert warning.startswith("Neighbouring slices are shifted against each other")
    assert "0.71, expected at most 0.5" in warning
    assert verdict(tmp_path, flags=[])["warnings"] == []


def test_a_cubic_result_is_not_passed_off_as_that_of_the_network(tmp_path):
    found = verdict(tmp_path, flags=[], result="cubic", predicted_gain_db=-0.7)
    assert "the result of the network to be 0.7 dB farther" in found["summary"]
    assert found["warnings"] == ["The result is cubic interpolation with data consistency, not that of the network."]


@pytest.mark.parametrize("content", ["{", "[1]", "", '"yes"', "{}", {**QUALITY, "flags": ["unheard_of"]}])
def test_a_broken_file_is_said_to_be_broken(tmp_path, content):
    assert "cannot be read" in read_verdict(write(tmp_path, content))["summary"]


def test_what_the_error_map_holds(tmp_path):
    assert "90 % of the voxels stay within it" in error_map_label(write(tmp_path, QUALITY))
    for content in ({**QUALITY, "error_map": None}, "{"):
        assert error_map_label(write(tmp_path, content)) == "expected absolute error"
    assert error_map_label(None) == "expected absolute error"
