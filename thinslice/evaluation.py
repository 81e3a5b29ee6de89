# SPDX-License-Identifier: Apache-2.0
"""Run the evaluation of the bundle, and show its table on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .location import BUNDLE, config_file
from .screen import LOG, Screen, fail
from .settings import require_device, require_ids
from .training import require_training_packages

__all__ = ["evaluate"]

CONFIGS = ("inference.json", "evaluate.json")


def evaluate(truth: Path, output: Path, ids: Mapping[str, Any], verbose: bool) -> int:
    """Score every thin-slice volume that a path holds, in float32.

    Args:
        truth: NIfTI file, DICOM series, or a folder of any of these.
        output: folder for ``metrics.json``, ``metrics.csv`` and pictures.
        ids: overrides of ids of ``evaluate.json``.
        verbose: leave messages of libraries on the screen.

    Returns:
        Exit code: 0 all done, 3 some volume has no result, 4 nothing to process.
    """
    require_training_packages()
    if not truth.exists():
        fail(f"HR must exist, got {truth}; correct the path")
    output.mkdir(parents=True, exist_ok=True)
    with Screen.quiet(None if verbose else output / LOG) as screen:
        return _run(truth, output, ids, screen)


def _run(truth: Path, output: Path, ids: Mapping[str, Any], screen: Screen) -> int:
    from monai.bundle import ConfigWorkflow

    files = [config_file(name) for name in CONFIGS]
    require_ids(ids, files)
    require_device(ids.get("device"), exact=True)
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="infer",
        logging_file=False,
        **{
            **ids, "bundle_root": str(BUNDLE), "dataset_dir": str(truth.resolve()), "output_dir": str(output.resolve()),
        },
    )  # fmt: skip
    workflow.initialize()
    code = 0
    try:
        with screen.bars():
            workflow.run()
    except SystemExit as end:  # the bundle has printed which scans have no result
        code = int(end.code or 0)
    table = output / "metrics.json"
    if code != 4 and table.is_file():
        for line in _table(json.loads(table.read_text(encoding="utf-8"))["cases"]):
            screen.say(line)
        screen.say(f"tables and pictures: {output}")
    return code


def _table(cases: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> list[str]:
    """One line per case: PSNR in dB and SSIM of each method."""
    return [
        f"{case}: "
        + ", ".join(f"{method} {scores['psnr']:.2f} dB / {scores['ssim']:.3f}" for method, scores in rows.items())
        for case, rows in cases.items()
    ]
