# SPDX-License-Identifier: Apache-2.0
"""The self-check's file in words, whatever it holds."""

import json

import pytest

from thinslice.viewer.quality import read_verdict


def verdict(tmp_path, content):
    path = tmp_path / "a_quality.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_verdict(path)


def test_no_file_no_verdict(tmp_path):
    assert read_verdict(None) is None
    assert read_verdict(tmp_path / "missing.json") is None


@pytest.mark.parametrize(("gain", "words"), [
    (1.24, "1.2 dB nearer the truth"), (0.01, "no nearer the truth"), (-0.4, "0.4 dB farther from the truth"),
    (None, "makes no prediction"), ("much", "makes no prediction"), (True, "makes no prediction"),
])  # fmt: skip
def test_the_gain_in_words(tmp_path, gain, words):
    assert words in verdict(tmp_path, {"predicted_gain_db": gain})["summary"]


@pytest.mark.parametrize("flags", [
    ["motion_between_slices"],
    [{"name": "motion_between_slices", "value": 0.7, "threshold": 0.5}],
    {"motion_between_slices": True, "noise": False},
    {"motion_between_slices": {"value": 0.7, "raised": True}, "noise": {"value": 0.1, "raised": False}},
])  # fmt: skip
def test_raised_flags_and_no_others(tmp_path, flags):
    warnings = verdict(tmp_path, {"predicted_gain_db": 1, "flags": flags})["warnings"]
    assert warnings == ["The self-check warns of: motion between slices."]


@pytest.mark.parametrize("content", ["{", "[1]", "", '"yes"'])
def test_a_broken_file_is_said_to_be_broken(tmp_path, content):
    assert "cannot be read" in verdict(tmp_path, content)["summary"]
