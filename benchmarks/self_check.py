# SPDX-License-Identifier: Apache-2.0
"""What the self-check and the error map cost: the whole inference command with and without them, in turns.

python -m benchmarks.self_check --scan HEAD.nii.gz --repeats 3
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import both_clocks
from benchmarks.machine import in_turns, parser_of, run_process, save_report, table
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
    return {
        name: {
            "seconds": float(np.median(found.real)),
            "processor_seconds": float(np.median(found.imag)),
            "ratio": float(np.median(found.real / clocks["plain"].real)),
            "processor_ratio": float(np.median(found.imag / clocks["plain"].imag)),
        }
        for name, found in clocks.items()
    }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--scan", type=Path, required=True, help="a thick scan, NIfTI")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    report = measure(a.scan.resolve(), a.repeats)
    names = list(next(iter(report.values())))
    print(table(["command", *names], [[name, *(f"{v:.2f}" for v in row.values())] for name, row in report.items()]))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
