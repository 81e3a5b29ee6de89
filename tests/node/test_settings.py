# SPDX-License-Identifier: Apache-2.0
"""Rules: what is accepted, what is refused, and which series they take."""

from __future__ import annotations

import json

import pytest

from tests.batch.conftest import thick_series
from tests.dicom.synthetic import drop
from thinslice.node.rules import Facts, check_ids, first_match, inference_ids, read_facts
from thinslice.node.serving import dry_run
from thinslice.node.settings import (
    Destination,
    Retry,
    Rule,
    SettingsError,
    check_title,
    parse_caller,
    parse_destination,
    read_settings,
)  # fmt: skip

PACS = {"PACS": {"host": "127.0.0.1", "port": 104}}


def read(tmp_path, **content):
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"destinations": PACS, **content}))
    return read_settings(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"rule": []}, "unknown field `rule`"),
        ({"rules": [{"bodypart": ["head"]}]}, "unknown field `bodypart`"),
        ({"rules": [{"body_part": ["brain"]}]}, "rule 1: body_part must be among"),
        ({"rules": [{"description": "("}]}, "rule 1: description must be a regular expression"),
        ({"rules": [{"thickness_mm": [8, 2]}]}, "rule 1: thickness_mm must be"),
        ({"rules": [{}, {"send_to": "OTHER"}]}, "rule 2: send_to must be one of PACS"),
        ({"rules": [{"target_spacing_mm": -1}]}, "target_spacing_mm"),
        ({"rules": []}, "rules"),
        ({"destinations": {}}, "destinations must name at least one"),
        ({"destinations": {**PACS, "B": PACS["PACS"]}}, "send_to must be given"),
        ({"destinations": {"PACS": {"host": "127.0.0.1", "port": 104, "tls": True}}}, "tls must be given"),
        ({"destinations": {"PACS": {"host": "127.0.0.1", "port": 0}}}, "port"),
        ({"destinations": {"A TITLE THAT IS TOO LONG": PACS["PACS"]}}, "destinations"),
        ({"retry": {"attempts": 0}}, "attempts"),
        ({"complete": {"stable_seconds": "60"}}, "stable_seconds"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, said):
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, **content)
    assert said in str(caught.value)


def test_the_command_line_adds_to_the_file(tmp_path):
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"callers": {"A": None}, "batch": {"workers": 2}}))
    found = read_settings(file, dict([parse_caller("B@192.0.2.1")]), dict([parse_destination("P@[::1]:104")]), {"x": 1})
    assert found.callers == {"A": None, "B": "192.0.2.1"}
    assert found.destinations == {"P": Destination("::1", 104)}
    assert found.batch == {"workers": 2, "x": 1}
    assert found.destination_of(found.rules[0]) == "P"


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:1", "PACS@host:", "PACS@:1"])
def test_a_destination_is_given_whole(text):
    with pytest.raises(SettingsError, match="AET@HOST:PORT"):
        parse_destination(text)


@pytest.mark.parametrize("title", ["", "A" * 17, "A\\B", "Ä", " A"])
def test_titles_are_those_of_the_standard(title):
    with pytest.raises(SettingsError, match="--aet"):
        check_title(title)
    assert check_title("A B") == "A B"


def test_pauses_double_up_to_the_longest():
    retry = Retry(first_seconds=5, longest_seconds=60)
    assert [retry.pause_seconds(attempts) for attempts in range(1, 7)] == [5, 10, 20, 40, 60, 60]


HEAD = Facts("MR", "head", "T2 TSE tra", 5.0)


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        (Rule(), True),
        (Rule(modality=["CT"]), False),
        (Rule(body_part=["spine", "head"]), True),
        (Rule(body_part=["spine"]), False),
        (Rule(description="t2.*tra"), True),
        (Rule(description="^tse"), False),
        (Rule(thickness_mm=(5, 8)), True),
        (Rule(thickness_mm=(5.1, 8)), False),
    ],
)
def test_a_rule_takes_what_meets_all_it_says(rule, taken):
    assert first_match([rule], HEAD) == (0 if taken else None)


def test_the_first_rule_that_matches_counts_and_an_unstated_thickness_matches_none():
    rules = [Rule(body_part=["knee"]), Rule(thickness_mm=(0, 9)), Rule()]
    assert first_match(rules, HEAD) == 1
    assert first_match(rules, Facts("MR", "head", "", None)) == 2


def test_facts_are_read_from_the_first_whole_file(tmp_path):
    thick_series(tmp_path, BodyPartExamined="LSPINE", SeriesDescription="sag T1")
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(b"rubbish")
    assert read_facts(files) == Facts("MR", "spine", "sag T1", pytest.approx(25 / 6))
    assert read_facts(files[:1]) is None


def test_ids_that_the_bundle_lacks_are_named():
    rules = [Rule(target_spacing_mm=1.0), Rule(when_worse="refuse")]
    assert inference_ids(rules[0]) == {"target_spacing_mm": 1.0}
    check_ids(rules[:1], {"target_spacing_mm": None})
    with pytest.raises(SettingsError, match="rule 2: when_worse must be an id"):
        check_ids(rules, {"target_spacing_mm": None})


def test_a_dry_run_says_what_would_happen_and_does_nothing(tmp_path):
    thick_series(tmp_path / "in" / "a", seed="a")
    thick_series(tmp_path / "in" / "knee", seed="knee", BodyPartExamined="KNEE")
    thick_series(tmp_path / "in" / "gap", seed="gap", edit=drop(4))
    found = read(tmp_path, rules=[{"body_part": ["head"], "target_spacing_mm": 2.5}])
    lines = {line.split("(")[1].split(")")[0]: line for line in dry_run(found, tmp_path / "spool", tmp_path / "in")}
    assert "taken by rule 1 (target_spacing_mm 2.5), sent to PACS" in lines["a"]
    assert "ignored: no rule takes it" in lines["knee"]
    assert "no result: GAP" in lines["gap"]
    assert not (tmp_path / "spool").exists()
