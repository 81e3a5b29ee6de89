# SPDX-License-Identifier: Apache-2.0
"""Overridden ids mean the same to the project's commands as to MONAI's own command line."""

import argparse
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tools.run_bundle import accept_overrides, bundle_command, run_bundle

WORDS = {"a": "True", "b": "1e-3", "c": "bfloat16", "d": "[1, 2]", "e": "None", "f::g": "-0.5", "k": "b c", "l": "x=y"}


def parse(*words):
    parser = argparse.ArgumentParser()
    accept_overrides(parser)
    return dict(parser.parse_args(["--set", *words]).set)


def test_values_are_python_literals_json_words_or_text():
    expected = {"a": True, "b": 0.001, "c": "bfloat16", "d": [1, 2], "e": None, "f::g": -0.5, "k": "b c", "l": "x=y"}
    assert parse(*(f"{key}={value}" for key, value in WORDS.items())) == expected
    assert parse("a=null", "b=true", "c=false") == {"a": None, "b": True, "c": False}


@pytest.mark.slow
def test_monai_reads_the_same_values_from_the_command(tmp_path):
    """What MONAI's command line makes of the words, and of the values that were read from them."""
    keys = dict.fromkeys("abcdekl")
    show = "$print('values', json.dumps([" + ", ".join(f"@{key}" for key in keys) + "]))"
    config = tmp_path / "show.json"
    config.write_text(json.dumps({"imports": ["$import json"], **keys, "run": [show]}))
    lines = []
    words = {key: WORDS[key] for key in keys}
    for ids in (words, parse(*(f"{key}={value}" for key, value in words.items()))):
        command = bundle_command([str(config)], **ids)
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines.append(next(line for line in output.splitlines() if line.startswith("values")))
    assert lines[0] == lines[1] == f"values {json.dumps([True, 0.001, 'bfloat16', [1, 2], None, 'b c', 'x=y'])}"


def test_a_word_without_a_value_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse("device")
    assert "--set must be ID=VALUE, got 'device'" in capsys.readouterr().err


def test_an_id_that_the_configs_do_not_have_ends_the_command_before_anything_runs(tmp_path):
    """`stage3_variant` was an id once; a run that ignored it would look like the paper's."""
    stage = ["common.json", "train_stage3.json"]
    with pytest.raises(
        SystemExit, match=r"an id of common\.json with train_stage3\.json, got stage3_variant; see docs"
    ):
        run_bundle(stage, "training", ct_dir=tmp_path, output_dir=tmp_path, stage3_variant="paper")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_modules_find_the_bundle_from_the_checkout_alone(monkeypatch):
    """Nothing but the folder that the docs name: no PYTHONPATH, no Makefile."""
    code = "import tools, scripts.geometry, pathlib; print(pathlib.Path(scripts.geometry.__file__).parents[2])"
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for room in ("tools", "studies", "benchmarks", "phantom"):
        run = [sys.executable, "-c", code.replace("import tools", f"import {room}", 1)]
        result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == str(ROOT)
