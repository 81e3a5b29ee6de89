# SPDX-License-Identifier: Apache-2.0
"""Run the batch on a tree of DICOM series: each series in a separate process, with a report of all."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .location import BUNDLE, config_file
from .quick import choose
from .screen import LOG, Screen, fail
from .settings import require_device, require_ids

__all__ = ["run_batch"]

INFERENCE = "inference::"


def run_batch(source: Path, output: Path, ids: Mapping[str, Any], exact: bool, verbose: bool) -> int:
    """Process a tree, and print one line per series.

    Args:
        source: folder of DICOM series.
        output: folder apart from ``source``.
        ids: overrides of ids of ``batch_dicom.json``; those of the inference begin with ``inference::``.
        exact: compute in float32.
        verbose: leave messages of libraries on the screen.

    Returns:
        Exit code of the batch.
    """
    if sys.platform == "win32":
        fail("the batch must run on Linux or macOS: its workers cannot be isolated on Windows; use `thinslice IN OUT`")
    if not source.is_dir():
        fail(f"IN must be a folder of DICOM series for --dicom, --report and batch, got {source}; correct the path")
    own = {name.removeprefix(INFERENCE): value for name, value in ids.items() if name.startswith(INFERENCE)}
    others = {name: value for name, value in ids.items() if not name.startswith(INFERENCE)}
    try:
        output.mkdir(parents=True, exist_ok=True)
        with Screen.quiet(None if verbose else output / LOG) as screen:
            return _run(source, output, own, others, exact, screen)
    except OSError as error:
        fail(f"OUT must be a folder that can be written to, got {error.strerror} for {output}; give another path")


def _run(source: Path, output: Path, own: dict[str, Any], others: dict[str, Any], exact: bool, screen: Screen) -> int:
    from monai.bundle import ConfigWorkflow

    require_device(own.get("device"), exact)
    require_ids(own, [config_file("inference.json")])
    require_ids(others, [config_file("batch_dicom.json")])
    way = {} if exact else choose(own, screen)
    workflow = ConfigWorkflow(
        config_file=config_file("batch_dicom.json"),
        workflow_type="infer",
        logging_file=False,
        **{
            **others, **{f"{INFERENCE}{name}": value for name, value in {**own, **way}.items()},
            "bundle_root": str(BUNDLE), "dataset_dir": str(source.resolve()), "output_dir": str(output.resolve()),
        },
    )  # fmt: skip
    workflow.initialize()
    logging.getLogger("BatchRunner").setLevel(logging.WARNING)  # the line per series below replaces that of the runner
    with screen.bars():
        code = int(workflow.parser.get_parsed_content("batch").run())
    report = output / "report.json"
    if code == 2 or not report.is_file():
        return code
    records = json.loads(report.read_text(encoding="utf-8"))["series"] or []  # null if only the tables list them
    for record in records:
        if not record["reason"]:  # for the others, the batch has printed the reason
            screen.say(_line(record, output))
    screen.say(f"report: {output / 'report.html'}; log: {output / LOG}")
    return code


def _line(record: Mapping[str, Any], output: Path) -> str:
    name = f"{record['series']} ({record['source']})"
    before, after = record["geometry_before"], record["geometry_after"]
    if not before or not after:
        return f"{name}: {record['status']}"
    axis = before["thick_axis"]
    old, new = (grid["spacing_mm"][axis] for grid in (before, after))
    done = f"{record['seconds']:.1f} s" if record["status"] == "ok" else str(record["status"])
    slices = f"{record['n_slices_in']} slices every {old:.3g} mm -> {record['n_slices_out']} every {new:.3g} mm"
    return f"{name}: {slices}, {done}, {output / record['series']}"
