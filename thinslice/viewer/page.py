# SPDX-License-Identifier: Apache-2.0
"""The page, either with its files served by the server or as one self-contained file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FILES", "POLICY", "linked_page", "single_page"]

ROOT = Path(__file__).parent
STYLE = "page/viewer.css"
SCRIPTS = (
    "vendor/niivue-0.69.0.umd.js",
    "page/geometry.js",
    "page/source.js",
    "page/panes.js",
    "page/strip.js",
    "page/app.js",
)
FILES = {
    Path(name).name: (ROOT / name, kind)
    for name, kind in ((STYLE, "text/css"), *((script, "text/javascript") for script in SCRIPTS))
}
# NiiVue unpacks its own font and pictures from data: addresses; the page can reach nothing else except this server
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def linked_page() -> str:
    """The page with links to its style and scripts, which are files of the same server."""
    scripts = "\n".join(f'<script src="{Path(name).name}" defer></script>' for name in SCRIPTS)
    return _fill(style=f'<link rel="stylesheet" href="{Path(STYLE).name}">', data="", scripts=scripts)


def single_page(case: Mapping[str, Any], volumes: Mapping[str, bytes]) -> Iterator[str]:
    """The page as one file without any link, in pieces.

    Args:
        case: description of the case for the page, in plain JSON types.
        volumes: ``acquired``, ``result`` and, if there is one, ``map`` to a gzipped NIfTI file.
    """
    style, scripts = _text(STYLE), [_text(name) for name in SCRIPTS]
    for script in scripts:
        if "</script" in script.lower():
            raise ValueError("a script must not hold '</script', which would end it inside the page")
    policy = (
        f"default-src 'none'; script-src {_digests(scripts)}; style-src {_digests([style])}; "
        "img-src data: blob:; connect-src data:; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    before, after = _fill(head, "\0", "\n".join(f"<script>{script}</script>" for script in scripts)).split("\0")
    yield before
    # the text of a case must not end the element that holds it
    description = json.dumps(case).replace("<", "\\u003c")
    yield f'<script type="application/json" id="case">{description}</script>\n'
    for role, content in volumes.items():
        yield f'<script type="text/plain" id="volume-{role}">{base64.b64encode(content).decode()}</script>\n'
    yield after


def _fill(style: str, data: str, scripts: str) -> str:
    page = _text("page/index.html")
    for mark, content in (("<!-- style -->", style), ("<!-- data -->", data), ("<!-- scripts -->", scripts)):
        page = page.replace(mark, content)
    return page


def _digests(texts: Iterable[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
