# SPDX-License-Identifier: Apache-2.0
"""Batch inference of the same DICOM series by one process, two processes under torchrun, two that know nothing of
each other, and one with two workers; all with as many threads in total.

Times are those of whole commands, start-up included. Two independent processes, half of the series each, are what two
cores can do at most without sharing anything; the slower of both counts.

    python -m benchmarks.processes --series 8 --rows 64
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import in_turns, parser_of, table, write_json
from phantom.dicom import write_series
from tools.run_bundle import bundle_command

PARTS = ("a", "b")


def make_series(folder: Path, series: int, rows: int, slices: int) -> None:
    """``series`` thick scans, half of them in each of ``folder/a`` and ``folder/b``."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (rows, rows, slices)], indexing="ij"))
    inside = (grid[:2] ** 2).sum(0) < 0.8
    for seed in range(series):
        voxels = np.where(inside, 1000 + 600 * np.cos((7 + seed) * grid[0] + 4 * grid[1]), 0)
        affine = np.diag([0.9, 0.9, 4.0, 1.0])
        write_series(folder / PARTS[seed % 2] / str(seed), voxels, affine, seed=seed)


def batch_words(dataset_dir: Path, output_dir: Path, threads: int, **ids: object) -> list[str]:
    """The batch, without bar and pictures."""
    ids = {"device": "cpu", "progress": False, "pictures": 0, "threads_per_worker": threads, **ids}
    return bundle_command(["batch_dicom.json"], dataset_dir=dataset_dir, output_dir=output_dir, **ids)


def side_by_side(commands: list[list[str]], threads: int) -> None:
    """Start all, wait for all.

    Raises:
        RuntimeError: with the end of what it said, if one fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = [
        subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"exit code must be 0, got {process.returncode}: {output[-2000:]}")


def arrangements(data: Path, out: Path, **ids: object) -> dict[str, Callable[[], None]]:
    """Each with a new output folder at every call, since what is done already would be skipped."""
    number = count()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no_python"]

    def words(dataset_dir: Path, threads: int, **more: object) -> list[str]:
        return batch_words(dataset_dir, out / str(next(number)), threads, **{**ids, **more})

    return {
        "two independent processes": lambda: side_by_side([words(data / part, 1) for part in PARTS], 1),
        "two under torchrun": lambda: side_by_side([torchrun + words(data, 1)], 1),
        "one process, two workers": lambda: side_by_side([words(data, 1, workers=2)], 1),
        "one process, two threads": lambda: side_by_side([words(data, 2)], 2),
    }


def measure(series: int, rows: int, slices: int, repeats: int, **ids: object) -> dict[str, Any]:
    """Seconds of each, and its throughput over that of the two independent ones (median over turns)."""
    with tempfile.TemporaryDirectory() as folder:
        make_series(Path(folder) / "in", series, rows, slices)
        seconds = in_turns(arrangements(Path(folder) / "in", Path(folder), **ids), repeats)
    independent = seconds["two independent processes"]
    return {
        "series": series,
        "shape": [rows, rows, slices],
        "arrangements": {
            name: {
                "seconds": float(np.median(values)),
                "throughput_to_independent": float(np.median(independent / values)),
            }
            for name, values in seconds.items()
        },
    }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--series", type=int, default=8, help="even")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    a = parser.parse_args()
    report = measure(a.series, a.rows, a.slices, a.repeats)
    print(f"{a.series} series of {a.rows} x {a.rows} x {a.slices}")
    print(
        table(
            ["", "seconds", "throughput, of two independent"],
            [
                [name, f"{r['seconds']:.1f}", f"{100 * r['throughput_to_independent']:.0f} %"]
                for name, r in report["arrangements"].items()
            ],
        )
    )
    write_json(report, a.output)


if __name__ == "__main__":
    main()
