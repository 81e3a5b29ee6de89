# SPDX-License-Identifier: Apache-2.0
"""``--set id=value``: any id of the configs, with the meaning that ``monai.bundle run --id value`` gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .screen import fail

__all__ = ["parse_settings", "require_ids"]

JSON_WORDS = {"null": None, "true": True, "false": False}


def parse_settings(items: Iterable[str]) -> dict[str, Any]:
    """Parse ``id=value`` items; a value is a Python literal, a JSON word, or else text."""
    from fire.parser import DefaultParseValue

    ids = {}
    for item in items:
        name, sign, value = item.partition("=")
        if not sign or not name:
            fail(f"--set must be ID=VALUE, got {item!r}; for example --set flips=true")
        ids[name] = JSON_WORDS[value] if value in JSON_WORDS else DefaultParseValue(value)
    return ids


def require_ids(ids: Mapping[str, Any], config_files: Sequence[str]) -> None:
    """End the command with one line if a config does not know one of the ids."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(list(config_files))
    if unknown := [name for name in ids if name not in parser]:
        fail(f"--set must name an id of the config, got {', '.join(unknown)}; the ids are listed in docs/configs.md")
