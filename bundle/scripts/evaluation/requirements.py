# SPDX-License-Identifier: Apache-2.0
"""What must hold before an evaluation starts."""

from __future__ import annotations

from typing import Any

__all__ = ["require_inference_config"]


def require_inference_config(preprocessing: Any) -> None:
    """End the process, in one line, where ``evaluate.json`` has not been given after ``inference.json``.

    Args:
        preprocessing: the chain of transforms that ``inference.json`` defines and ``evaluate.json`` only extends.

    Raises:
        SystemExit: with the right command, if there is nothing to extend.
    """
    if not callable(preprocessing):
        raise SystemExit(
            "evaluate.json must go after inference.json, got a list of configs without it; use --config_file "
            "\"['bundle/configs/inference.json','bundle/configs/evaluate.json']\""
        )
