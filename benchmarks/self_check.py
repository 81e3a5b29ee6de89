# SPDX-License-Identifier: Apache-2.0
"""Cost of the self-check and the error map: the whole inference command with and without them, in turns.

python -m benchmarks.self_check --scan HEAD.nii.gz --repeats 3
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import both_clocks, medians, scan_command_line
from benchmarks.machine import in_turns, run_process
from tools.run_bundle import bundle_command

__all__ = ["measure"]


def measure(scan: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Medians by command: ``seconds``, ``processor_seconds``, and their ratios to the command without a check."""
    with tempfile.TemporaryDirectory() as folder:
        ids: dict[str, dict[str, Any]] = {
            "plain": {}, "self_check": {"self_check": True}, "both": {"self_check": True, "error_map": True},
        }  # fmt: skip
        runs = {}
        for name, more in ids.items():
            words = bundle_command(["inference.json"], dataset_dir=scan, output_dir=folder, **more)
            runs[name] = partial(run_process, words)
        clocks = in_turns(runs, repeats, both_clocks)  # type: ignore[arg-type]
    return medians(clocks, lambda plain, own: own / plain)


if __name__ == "__main__":
    scan_command_line(__doc__, measure)
