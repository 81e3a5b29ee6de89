# SPDX-License-Identifier: Apache-2.0
"""The findings of the self-check in words, from ``<case>_quality.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.quality.words import faults_in_words

__all__ = ["Verdict", "error_map_label", "read_verdict"]

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
        return {"summary": _gain(quality), "warnings": faults_in_words(quality)}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return {"summary": "The file of the self-check cannot be read.", "warnings": []}


def error_map_label(path: Path | None) -> str:
    """What the values of the error map are. The self-check widens them to an interval that holds most voxels."""
    try:
        coverage = float(json.loads(path.read_text(encoding="utf-8"))["error_map"]["coverage"])  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return "expected absolute error"
    return f"predicted error: {100 * coverage:.3g} % of the voxels stay within it"


def _gain(quality: Mapping[str, Any]) -> str:
    value = quality["predicted_gain_db"]
    if value is None:
        return f"The self-check makes no prediction: {quality['withheld'] or 'the scan has no tissue to judge by'}."
    made = "this result" if quality["result"] == "network" else "the result of the network"
    if value >= 0.05:
        return f"The self-check expects {made} to be {value:.1f} dB nearer the truth than cubic interpolation."
    if value > -0.05:
        return f"The self-check expects {made} to be no nearer the truth than cubic interpolation."
    return f"The self-check expects {made} to be {-value:.1f} dB farther from the truth than cubic interpolation."
