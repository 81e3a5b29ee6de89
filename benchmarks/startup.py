# SPDX-License-Identifier: Apache-2.0
"""Start-up time: the whole inference command on a tiny scan, relative to the import of PyTorch and MONAI alone.

Both are whole processes from start to exit, in turns. Each runs once before, so that the files of the libraries are in
the page cache. The first start after a boot always waits for the disk.

    python -m benchmarks.startup
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import in_turns, parser_of, run_process, save_report, table
from benchmarks.memory import thick_scan
from tools.run_bundle import bundle_command

BASE = [sys.executable, "-c", "import torch, monai"]


def measure(repeats: int, shape: tuple[int, int, int] = (24, 24, 6), **ids: Any) -> dict[str, float]:
    """Medians in seconds, and the median ratio of runs that follow each other."""
    with tempfile.TemporaryDirectory() as folder:
        scan = thick_scan(Path(folder) / "scan.nii.gz", shape)
        command = bundle_command(["inference.json"], dataset_dir=scan, output_dir=folder, device="cpu", **ids)
        commands = {"import torch, monai": BASE, "monai.bundle run": command}
        candidates = {name: lambda words=words: run_process(words) for name, words in commands.items()}
        in_turns(candidates, 1)
        bare, whole = in_turns(candidates, repeats).values()
    return {
        "import_seconds": float(np.median(bare)),
        "command_seconds": float(np.median(whole)),
        "ratio": float(np.median(whole / bare)),
    }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    report = measure(a.repeats)
    print(table(list(report), [[f"{value:.2f}" for value in report.values()]]))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
