# SPDX-License-Identifier: Apache-2.0
"""Stage 1 with several arrangements of processes.

The arrangements are one process, two processes under torchrun that share their gradients, and two independent
processes. All have the same number of threads and of patches per iteration in total. Every command runs for a short and
for a long stage, and the difference does not contain the start-up.

    python -m benchmarks.training_processes --iterations 4 16
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import parser_of, save_report, table
from benchmarks.memory import thick_scan
from benchmarks.processes import side_by_side
from tools.run_bundle import bundle_command

FIRST = "two independent processes"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no_python")


def arrangements(data: Path, out: Path, batch_size: int, **ids: Any) -> dict[str, Callable[[int], None]]:
    """Functions by name, each of which trains from scratch for a number of iterations."""
    number = count()

    def run(
        iterations: int,
        patches: int,
        processes: int,
        threads: int,
        launcher: Sequence[str] = (),
        configs: Sequence[str] = (),
    ) -> None:
        settings = {
            "ct_dir": data / "ct", "mr_dir": data / "mr", "device": "cpu", "validation_fraction": 0.0,
            "stage_iterations": iterations, "batch_size": patches, **ids,
        }  # fmt: skip
        files = ["common.json", "train_stage1.json", *configs]
        commands = [
            [*launcher, *bundle_command(files, "training", output_dir=out / str(next(number)), **settings)]
            for _ in range(processes)
        ]
        side_by_side(commands, threads)

    half = batch_size // 2
    return {
        FIRST: lambda n: run(n, half, processes=2, threads=1),
        "two under torchrun": lambda n: run(n, half, 1, 1, TORCHRUN, ("multi_gpu_train.json",)),
        "one process, two threads": lambda n: run(n, batch_size, processes=1, threads=2),
    }


def measure(iterations: Sequence[int], batch_size: int, repeats: int, **ids: Any) -> dict[str, Any]:
    """Seconds per iteration (``batch_size`` patches in total), and throughput relative to the independent processes."""
    short, long = iterations
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        for seed in range(2):
            thick_scan(data / "ct" / f"ct{seed}.nii.gz", (128, 128, 96))
            thick_scan(data / "mr" / f"mr{seed}.nii.gz", (128, 128, 32))
        for _ in range(repeats):
            for arrangement, run in arrangements(data, data / "out", batch_size, **ids).items():
                marks = [time.perf_counter()]
                for length in (short, long):
                    run(length)
                    marks.append(time.perf_counter())
                taken = (marks[2] - marks[1]) - (marks[1] - marks[0])
                seconds.setdefault(arrangement, []).append(taken / (long - short))
    return {
        "batch_size": batch_size,
        "arrangements": {
            arrangement: {
                "seconds_per_iteration": float(np.median(values)),
                "throughput": float(np.median(np.divide(seconds[FIRST], values))),
            }
            for arrangement, values in seconds.items()
        },
    }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--iterations", type=int, nargs=2, default=(4, 24), help="iterations of the short and the long stage"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="even total over all processes")
    parser.add_argument("--repeats", type=int, default=1)
    a = parser.parse_args()
    report = measure(a.iterations, a.batch_size, a.repeats)
    rows = [
        [name, f"{r['seconds_per_iteration']:.2f}", f"{100 * r['throughput']:.0f} %"]
        for name, r in report["arrangements"].items()
    ]
    print(table(["", f"seconds per {a.batch_size} patches", "throughput"], rows))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
