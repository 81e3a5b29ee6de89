# SPDX-License-Identifier: Apache-2.0
"""Location of the bundle. Importing this module makes the bundle's package, ``scripts``, importable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

__all__ = ["BUNDLE", "config_file", "version"]

HERE = Path(__file__).resolve().parent
BUNDLE = next(folder for folder in (HERE / "bundle", HERE.parent / "bundle") if folder.is_dir())

if str(BUNDLE) not in sys.path:
    sys.path.insert(0, str(BUNDLE))


def config_file(name: str) -> str:
    """Path of a file in the bundle's ``configs``."""
    return str(BUNDLE / "configs" / name)


def version() -> str:
    """Version of the bundle, which is that of the package."""
    return str(json.loads(Path(config_file("metadata.json")).read_text(encoding="utf-8"))["version"])
