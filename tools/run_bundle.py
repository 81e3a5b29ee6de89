# SPDX-License-Identifier: Apache-2.0
"""Start the bundle as a user does: `python -m monai.bundle run` in a separate process."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from thinslice.screen import CommandError
from thinslice.settings import parse_settings, require_ids

__all__ = ["BUNDLE", "ROOT", "accept_overrides", "bundle_command", "override", "run_bundle"]

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"


def bundle_command(configs: list[str], run_id: str = "run", bundle: Path = BUNDLE, **ids: Any) -> list[str]:
    """The command line for configs of the bundle, in order, with overridden ids.

    Args:
        configs: file names in ``bundle/configs``, or paths to other override files.
        run_id: ``run``, ``training`` or ``evaluating``.
        bundle: bundle root.
        ids: overrides; keys may hold ``::`` (pass them with ``**{"a::b": ...}``).
    """
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(_files(configs, bundle))]
    command += ["--bundle_root", str(bundle)]
    for key, value in ids.items():
        command += [f"--{key}", str(value)]
    return command


def _files(configs: list[str], bundle: Path) -> list[str]:
    return [str(bundle / "configs" / name) if "/" not in name else name for name in configs]


def run_bundle(configs: list[str], run_id: str = "run", bundle: Path = BUNDLE, **ids: Any) -> None:
    """Run the bundle and show its output.

    Raises:
        SystemExit: with its exit code, if that is not 0; with a message, if the configs do not have one of the ids.
    """
    try:
        require_ids(ids, _files(configs, bundle))
    except CommandError as error:
        raise SystemExit(str(error)) from error
    code = subprocess.run(bundle_command(configs, run_id, bundle, **ids), check=False).returncode
    if code:
        raise SystemExit(code)


def override(word: str) -> tuple[str, Any]:
    """``ID=VALUE`` as id and value, read as the command ``thinslice`` reads it.

    Raises:
        argparse.ArgumentTypeError: for a word without ``=``.
    """
    try:
        return next(iter(parse_settings([word]).items()))
    except CommandError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def accept_overrides(parser: argparse.ArgumentParser) -> None:
    """Give a command line ``--set ID=VALUE ...``; the result goes through ``dict``."""
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], type=override, metavar="ID=VALUE", help="overridden config ids"
    )
