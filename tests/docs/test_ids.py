# SPDX-License-Identifier: Apache-2.0
"""Every id of every config is in the page of the configs, and the defaults there are those of the files."""

import json
import re

import pytest

from tests.conftest import BUNDLE, ROOT

CONFIGS = BUNDLE / "configs"
NOT_CONFIGS = {"metadata.json"}
PAGE = (ROOT / "docs" / "configs.md").read_text()
BATCH = (ROOT / "docs" / "batch.md").read_text()
# heading of a section of the page: the configs whose ids it lists
SECTIONS = {
    "Ids of `inference.json`": ["inference.json"],
    "Ids of `batch_dicom.json`": ["batch_dicom.json"],
    "Ids of `evaluate.json`": ["evaluate.json"],
    "Ids of `fuse.json`": ["fuse.json"],
    "Ids of `common.json`: all stages of training": ["common.json"],
    "Ids of the stages": ["train_stage1.json", "train_stage2.json", "train_stage3.json"],
    "The overrides": [
        "stage2_paper.json",
        "stage3_paper.json",
        "network_reproduction.json",
        "network_guided.json",
        "train_guided.json",
        "smoke.json",
        "multi_gpu_train.json",
    ],
}


def config(name: str) -> dict:
    return json.loads((CONFIGS / name).read_text())


def own_ids(name: str) -> set[str]:
    """Top-level ids; ``+x`` and ``x::y`` change parts of ``x``."""
    return {key.lstrip("+").partition("::")[0] for key in config(name)} - {"_desc_"}


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, heading
    return found[1]


def words(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def rows(text: str) -> list[tuple[str, str]]:
    """Id and default of each row of the tables."""
    return re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.M)


def test_every_config_belongs_to_a_section():
    listed = {name for names in SECTIONS.values() for name in names}
    assert listed == {path.name for path in CONFIGS.glob("*.json")} - NOT_CONFIGS


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_id_is_in_the_page(heading):
    text = section(heading)
    told = words(text)
    if heading == "The overrides":  # what they change is explained where it is defined
        told |= words(PAGE)
    if heading == "Ids of `batch_dicom.json`":
        told |= words(BATCH)
    for name in SECTIONS[heading]:
        assert own_ids(name) <= told, f"{name}: {sorted(own_ids(name) - told)}"


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_id_of_a_table_exists(heading):
    known = set().union(*(own_ids(name) for name in SECTIONS[heading]))
    if heading in ("Ids of `evaluate.json`", "Ids of `fuse.json`"):
        known |= own_ids("inference.json")
    assert {name for name, _ in rows(section(heading))} <= known


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_defaults_are_those_of_the_files(heading):
    """A default between backticks is the JSON value or another id; one in words is an expression."""
    merged = {key: value for name in SECTIONS[heading] for key, value in config(name).items()}
    compared = 0
    for name, default in rows(section(heading)):
        if not (quoted := re.fullmatch(r"`([^`]*)`", default)):
            continue
        if name in merged or heading not in ("Ids of `evaluate.json`", "Ids of `fuse.json`"):
            value = merged[name]
            assert value == f"@{quoted[1]}" if str(value).startswith("@") else json.loads(quoted[1]) == value, name
            compared += 1
    assert compared or heading in ("Ids of `batch_dicom.json`", "The overrides")


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_plain_value_has_its_default_in_a_table(heading):
    """An id whose value is a plain number, text or list of them is a setting: it has a row."""
    if heading in ("Ids of `batch_dicom.json`", "The overrides"):
        return
    listed = {name for name, _ in rows(section(heading))}
    for name in SECTIONS[heading]:
        plain = {key for key, value in config(name).items() if is_plain(value)} - {"_desc_", "run", "training"}
        assert plain <= listed, f"{name}: {sorted(plain - listed)}"


def is_plain(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(is_plain(item) for item in value)
    return not isinstance(value, dict) and not (isinstance(value, str) and value[:1] in ("$", "@", "%"))
