# SPDX-License-Identifier: Apache-2.0
"""Format JSON files as the Model Zoo expects: four spaces, one element per line, keys in their order."""

from __future__ import annotations

import json
import sys
from pathlib import Path

__all__ = ["formatted"]


def formatted(text: str) -> str:
    """The same JSON, formatted."""
    return json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n"


def main(paths: list[str]) -> int:
    """Format each file; 1 if any has changed, as pre-commit expects."""
    changed = 0
    for path in map(Path, paths):
        text = path.read_text()
        if text != formatted(text):
            path.write_text(formatted(text))
            print(f"formatted {path}")
            changed = 1
    return changed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
