# SPDX-License-Identifier: Apache-2.0
"""Batch inference of the same DICOM series with several arrangements of processes.

The arrangements are one process with two threads, one process with two workers, two workers of a running Dask cluster,
and two independent processes. All have the same number of threads in total. For each, two times are measured: that of
the whole command, including its start, and that of the batch alone according to its report (from the search of the
folder to the report). The two independent processes take half of the series each, and the slower one counts.

    python -m benchmarks.processes --series 8 --rows 64
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cluster import LocalCluster
from benchmarks.machine import parser_of, save_report, table
from phantom.dicom import write_series
from tools.run_bundle import bundle_command

PARTS = ("a", "b")


def make_series(folder: Path, series: int, rows: int, slices: int) -> None:
    """Write ``series`` thick scans, one half to ``folder/a`` and the other to ``folder/b``."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (rows, rows, slices)], indexing="ij"))
    inside = (grid[:2] ** 2).sum(0) < 0.8
    for seed in range(series):
        voxels = np.where(inside, 1000 + 600 * np.cos((7 + seed) * grid[0] + 4 * grid[1]), 0)
        affine = np.diag([0.9, 0.9, 4.0, 1.0])
        write_series(folder / PARTS[seed % 2] / str(seed), voxels, affine, seed=seed)


def batch_words(dataset_dir: Path, output_dir: Path, threads: int, **ids: Any) -> list[str]:
    """Command of the batch, without progress bar and pictures."""
    ids = {"device": "cpu", "progress": False, "pictures": 0, "threads_per_worker": threads, **ids}
    return bundle_command(["batch_dicom.json"], dataset_dir=dataset_dir, output_dir=output_dir, **ids)


def side_by_side(commands: list[list[str]], threads: int) -> None:
    """Start all commands, and wait for all of them.

    Raises:
        RuntimeError: if one fails; the message holds the end of its output.
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


def batch_seconds(outputs: list[Path]) -> float:
    """Seconds of the slowest batch, from the reports."""
    reports = [json.loads((output / "report.json").read_text()) for output in outputs]
    return max(float(report["summary"]["seconds"]) for report in reports)


def arrangements(data: Path, out: Path, scheduler: str, **ids: Any) -> dict[str, Callable[[], list[Path]]]:
    """Arrangements by name. Each call returns new output folders, because the batch skips finished series."""
    number = count()

    def run(datasets: list[Path], threads: int, **more: object) -> list[Path]:
        outputs = [out / str(next(number)) for _ in datasets]
        side_by_side(
            [
                batch_words(dataset, output, threads, **ids, **more)
                for dataset, output in zip(datasets, outputs, strict=True)
            ],
            threads,
        )
        return outputs

    return {
        "two independent processes": lambda: run([data / part for part in PARTS], 1),
        "two Dask workers": lambda: run([data], 1, executor="dask", scheduler=scheduler),
        "one process, two workers": lambda: run([data], 1, workers=2),
        "one process, two threads": lambda: run([data], 2),
    }


def measure(series: int, rows: int, slices: int, repeats: int, **ids: Any) -> dict[str, Any]:
    """Medians over the turns, and throughputs relative to the two independent processes."""
    whole: dict[str, list[float]] = {}
    batch: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder) / "cluster") as cluster:
        make_series(Path(folder) / "in", series, rows, slices)
        for _ in range(repeats):
            for name, run in arrangements(Path(folder) / "in", Path(folder) / "out", cluster.address, **ids).items():
                started = time.perf_counter()
                outputs = run()
                whole.setdefault(name, []).append(time.perf_counter() - started)
                batch.setdefault(name, []).append(batch_seconds(outputs))
                for output in outputs:
                    shutil.rmtree(output)
    first = "two independent processes"
    return {
        "series": series,
        "shape": [rows, rows, slices],
        "arrangements": {
            name: {
                "command_seconds": float(np.median(whole[name])),
                "batch_seconds": float(np.median(batch[name])),
                "command_throughput": float(np.median(np.divide(whole[first], whole[name]))),
                "batch_throughput": float(np.median(np.divide(batch[first], batch[name]))),
            }
            for name in whole
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
            ["", "command, s", "batch alone, s", "throughput, command", "throughput, batch alone"],
            [
                [
                    name,
                    f"{r['command_seconds']:.1f}",
                    f"{r['batch_seconds']:.1f}",
                    f"{100 * r['command_throughput']:.0f} %",
                    f"{100 * r['batch_throughput']:.0f} %",
                ]
                for name, r in report["arrangements"].items()
            ],
        )
    )
    save_report(report, a.output)


if __name__ == "__main__":
    main()
