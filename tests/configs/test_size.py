# SPDX-License-Identifier: Apache-2.0
"""How much a stage's config asks of its reader, and that no block stands twice."""

import json

import pytest
from monai.bundle import ConfigParser

from tests.conftest import BUNDLE

KEYS, EXPRESSIONS = {1: 360, 2: 381, 3: 483}, {1: 23, 2: 26, 3: 36}  # as merged; lower them when a config gets shorter


def nodes(content, path=""):
    """``(path, value)`` of everything in a config."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield f"{path}::{key}", value, isinstance(content, dict)
            yield from nodes(value, f"{path}::{key}")


def read(*names):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in names])
    return parser.config


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_as_merged_stays_small(stage):
    found = list(nodes(read("common.json", f"train_stage{stage}.json")))
    keys = sum(is_key for _, _, is_key in found)
    expressions = sum(isinstance(value, str) and value.startswith("$") for _, value, _ in found)
    assert keys <= KEYS[stage]
    assert expressions <= EXPRESSIONS[stage]


@pytest.mark.parametrize("names", [("common.json", f"train_stage{n}.json") for n in (1, 2, 3)] + [
    ("inference.json", "evaluate.json")
])  # fmt: skip
def test_no_block_stands_twice(names):
    """Equal components would be one knob in two places."""
    blocks = {}
    for path, value, _ in nodes(read(*names)):
        if isinstance(value, dict) and "_target_" in value and len(value) > 3:
            blocks.setdefault(json.dumps(value, sort_keys=True), []).append(path)
    assert [paths for paths in blocks.values() if len(paths) > 1] == []
