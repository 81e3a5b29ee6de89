# SPDX-License-Identifier: Apache-2.0
"""The site leaves nothing out; `make docs` builds it, with warnings as errors."""

import re

from tests.conftest import BUNDLE, ROOT

DOCS = ROOT / "docs"


def test_the_reference_has_every_module_of_the_bundle():
    scripts = BUNDLE / "scripts"
    there = {path.parent.name for path in scripts.glob("*/__init__.py")}
    there |= {path.stem for path in scripts.glob("*.py")} - {"__init__"}
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    assert set(re.findall(r"^::: scripts\.(\w+)$", text, re.M)) == there


def test_the_entry_leads_to_every_page():
    pages = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\]\((\w+\.md)\)", (DOCS / "index.md").read_text())) == pages


def test_every_page_begins_with_a_paragraph_that_says_what_it_is_for():
    for path in DOCS.rglob("*.md"):
        title, empty, first, *_ = path.read_text().split("\n")
        assert title.startswith("# "), path.name
        assert not empty, path.name
        assert re.match(r"[A-Z`*]", first), f"{path.name}: {first}"  # words: no table, list, picture or block


def test_every_picture_is_on_a_page():
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md"]
    shown = {name for page in pages for name in re.findall(r"images/([\w.]+)", page.read_text())}
    assert shown == {path.name for path in (DOCS / "images").iterdir()}


def test_the_prose_of_a_page_has_lines_of_at_most_120_columns():
    """Rows of tables, pictures and blocks of code are left out."""
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        long = [line for line in text.splitlines() if len(line) > 120 and line[0] not in "|!"]
        assert not long, f"{path.name}: {long[0]}"
