# SPDX-License-Identifier: Apache-2.0
"""Checks before an evaluation starts."""

from __future__ import annotations

from typing import Any

__all__ = ["require_inference_config"]


def require_inference_config(preprocessing: Any, config: str = "evaluate.json") -> None:
    """End the process with one line if a config that extends ``inference.json`` was not given after it.

    Args:
        preprocessing: the chain of transforms that ``inference.json`` defines.
        config: the file that extends it.

    Raises:
        SystemExit: with the right command, if there is nothing to extend.
    """
    if not callable(preprocessing):
        raise SystemExit(
            f"{config} must go after inference.json, got a list of configs without it; use --config_file "
            f"\"['bundle/configs/inference.json','bundle/configs/{config}']\""
        )
