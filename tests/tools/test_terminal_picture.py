# SPDX-License-Identifier: Apache-2.0
"""Pictures of the terminal show what was printed, as a terminal shows it."""

import json
import re

import pytest

from tests.conftest import ROOT
from tools.terminal_picture import PAUSE_S, PICTURES, cast, draw, record, shown

EVENTS = [
    (0.0, "first\r\n"),
    (1.0, "\r10 %|#   |"),
    (1.2, "\r20 %|##  |"),
    (3.0, "\r          "),
    (3.1, "\rse"),
    (3.2, "cond\r\n\r\n\x1b[1mthird\x1b[0m\r\n"),
]


def test_only_what_stays_on_the_screen_is_shown():
    assert shown(EVENTS) == ["first", "second", "third"]


def test_a_bar_that_stays_is_shown_as_it_was_drawn_last():
    assert shown([(0.0, "\r10 %\r20 %\r\n")]) == ["20 %"]


def test_the_picture_has_the_command_and_its_lines_and_needs_nothing_from_elsewhere():
    picture = draw("thinslice IN", ["a < b", "second"])
    text = re.sub(r"<[^>]*>", "", picture.partition("</style>")[2]).replace("&#160;", " ")
    assert [line.strip() for line in text.splitlines() if line.strip()] == ["$ thinslice IN", "a &lt; b", "second"]
    assert "url(http" not in picture


def test_the_recording_keeps_the_times_and_loses_no_text():
    header, *events = [json.loads(line) for line in cast({"a": EVENTS, "b": EVENTS[:1]}).splitlines()]
    assert header["version"] == 2
    # typed, three bursts, and the second command a pause after the end of the first
    assert [time for time, _, _ in events] == [0.0, 0.0, 1.0, 3.0, 3.2 + PAUSE_S, 3.2 + PAUSE_S]
    assert "".join(text for _, _, text in events[1:4]) == "".join(text for _, text in EVENTS)
    assert events[4][2].endswith("b\r\n")


@pytest.mark.slow
def test_a_command_is_recorded_as_on_a_terminal(tmp_path):
    events = record("thinslice --help", tmp_path)
    assert "thinslice" in "".join(text for _, text in events)
    assert max(len(line) for line in shown(events)) <= 100
    with pytest.raises(RuntimeError, match="must end with 0, got 2"):
        record("thinslice no/such/scan", tmp_path)


def test_the_committed_pictures_and_recording_are_of_the_commands():
    images = ROOT / "docs" / "images"
    recording = (images / "terminal.cast").read_text()
    for name, command in PICTURES.items():
        assert command in (images / f"terminal_{name}.svg").read_text().replace("&#160;", " ")
        assert command in recording
