# SPDX-License-Identifier: Apache-2.0
"""Run the fusion of stacks of the bundle, and show a line per stack on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .location import BUNDLE, config_file
from .screen import LOG, Screen
from .settings import require_device, require_ids

__all__ = ["fuse"]

CONFIGS = ("inference.json", "fuse.json")


def fuse(stacks: Sequence[Path], output: Path, ids: Mapping[str, Any], verbose: bool) -> int:
    """Fuse stacks, in float32.

    Args:
        stacks: NIfTI files or folders of one DICOM series each; the first one gives the grid.
        output: folder for ``fused.nii.gz`` and ``fused.json``.
        ids: overrides of ids of ``fuse.json`` and ``inference.json``.
        verbose: leave messages of libraries on the screen.

    Returns:
        Exit code: 0 done, 3 the stacks cannot be fused.
    """
    output.mkdir(parents=True, exist_ok=True)
    with Screen.quiet(None if verbose else output / LOG) as screen:
        return _run(stacks, output, ids, screen)


def _run(stacks: Sequence[Path], output: Path, ids: Mapping[str, Any], screen: Screen) -> int:
    from monai.bundle import ConfigWorkflow

    files = [config_file(name) for name in CONFIGS]
    require_ids(ids, files)
    require_device(ids.get("device"), exact=True)
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="infer",
        logging_file=False,
        **{
            **ids, "bundle_root": str(BUNDLE), "stacks": [str(stack.resolve()) for stack in stacks],
            "output_dir": str(output.resolve()),
        },
    )  # fmt: skip
    workflow.initialize()
    try:
        with screen.bars():
            workflow.run()
    except SystemExit as end:  # the bundle has printed the reason
        return int(end.code or 0)
    report = json.loads((output / "fused.json").read_text(encoding="utf-8"))
    for stack in report["stacks"]:
        moved = (
            f"moved by {stack['shift_mm']:.2f} mm and {stack['rotation_degrees']:.2f} degrees, "
            f"correlation {stack['correlation_before']:.3f} -> {stack['correlation']:.3f}, "
            if "shift_mm" in stack
            else ""
        )
        unexplained = stack["unexplained_share_of_range"]
        screen.say(f"{stack['case']}: {moved}unexplained {unexplained[0]:.2%} -> {unexplained[-1]:.2%} of the range")
    shape = " x ".join(map(str, report["shape"]))
    spacing = " x ".join(f"{value:.3g}" for value in report["spacing_mm"])
    screen.say(f"{shape} voxels of {spacing} mm: {output / 'fused.nii.gz'}")
    return 0
