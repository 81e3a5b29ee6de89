# SPDX-License-Identifier: Apache-2.0
"""Parse ``--set id=value``, which sets any id of the configs as ``monai.bundle run --id value`` does."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .screen import fail

__all__ = ["known_ids", "parse_settings", "refuse_unknown", "require_device", "require_ids"]

JSON_WORDS = {"null": None, "true": True, "false": False}


def parse_settings(items: Iterable[str]) -> dict[str, Any]:
    """Parse ``id=value`` items; a value is a Python literal, a JSON word or text."""
    from fire.parser import DefaultParseValue

    ids = {}
    for item in items:
        name, sign, value = item.partition("=")
        if not sign or not name:
            fail(f"--set must be ID=VALUE, got {item!r}; for example --set flips=true")
        ids[name] = JSON_WORDS[value] if value in JSON_WORDS else DefaultParseValue(value)
    return ids


def known_ids(ids: Mapping[str, Any], config_files: Sequence[str]) -> dict[str, Any]:
    """The ids among those given that the config, merged from its files in order, has."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of parts of an override that no other file has
        parser.read_config(list(config_files))
    return {name: value for name, value in ids.items() if name in parser}


def refuse_unknown(names: Collection[str], config_files: Sequence[str]) -> None:
    """End the command with one line if there are names that the config does not have."""
    if names:
        config = " with ".join(Path(file).name for file in config_files)
        fail(f"--set must name an id of {config}, got {', '.join(names)}; see docs/configs.md")


def require_ids(ids: Mapping[str, Any], config_files: Sequence[str]) -> None:
    """End the command with one line if the config does not have one of the ids."""
    known = known_ids(ids, config_files)
    refuse_unknown([name for name in ids if name not in known], config_files)


def require_device(device: object, exact: bool) -> None:
    """End the command with one line if PyTorch cannot compute on a device; with ``exact``, forbid TF32."""
    import torch

    if exact:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if device is None:
        return
    try:
        torch.zeros(1, device=str(device)).add_(1).item()
    except Exception as error:  # torch raises anything from AssertionError to RuntimeError here
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        fail(f"--device must be one that PyTorch can use here, got {device!r} ({why}); leave it out, or give cpu")
