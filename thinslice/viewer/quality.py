# SPDX-License-Identifier: Apache-2.0
"""The self-check's verdict in words, from ``<case>_quality.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Verdict", "read_verdict"]

Verdict = dict[str, Any]


def read_verdict(path: Path | None) -> Verdict | None:
    """Read the verdict of the self-check as ``summary`` (one sentence) and ``warnings`` (one sentence each).

    Args:
        path: the file, which need not exist, or ``None``.

    Returns:
        ``None`` if there is no self-check. For a file that cannot be read, the summary says so.
    """
    if path is None or not path.is_file():
        return None
    try:
        quality = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        quality = None
    if not isinstance(quality, Mapping):
        return {"summary": "The file of the self-check cannot be read.", "warnings": []}
    return {"summary": _gain(quality.get("predicted_gain_db")), "warnings": [_flag(f) for f in _raised(quality)]}


def _gain(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "The self-check makes no prediction for this scan."
    if value >= 0.05:
        return f"The self-check expects this result to be {value:.1f} dB nearer the truth than cubic interpolation."
    if value > -0.05:
        return "The self-check expects this result to be no nearer the truth than cubic interpolation."
    return f"The self-check expects this result to be {-value:.1f} dB farther from the truth than cubic interpolation."


def _raised(quality: Mapping[str, Any]) -> Iterable[str]:
    """Names of the raised flags, which the file holds as a list or as a mapping from name to value."""
    flags = quality.get("flags")
    if isinstance(flags, Mapping):
        for name, value in flags.items():
            raised = value.get("raised", value.get("flag", True)) if isinstance(value, Mapping) else value
            if raised:
                yield str(name)
    elif isinstance(flags, list):
        for flag in flags:
            yield str(flag.get("name", "unnamed")) if isinstance(flag, Mapping) else str(flag)


def _flag(name: str) -> str:
    return f"The self-check warns of: {name.replace('_', ' ').replace('-', ' ')}."
