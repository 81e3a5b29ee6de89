# SPDX-License-Identifier: Apache-2.0
"""The whole command ``thinslice SCAN OUT`` against the same with a plain float32 loop, and against ``--exact``.

The commands run in turns, each as a process from start to exit, including reading, computing, data consistency and
writing. The plain loop is ``monai.bundle run`` with its inferer replaced by :func:`benchmarks.inference.plain_loop`.
Processor seconds are reported besides wall-clock seconds, because other work on the machine disturbs them less.

    python -m benchmarks.command --scan HEAD.nii.gz --repeats 3
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from benchmarks.inference import plain_loop
from benchmarks.machine import in_turns, parser_of, run_process, save_report, table
from tools.run_bundle import ROOT, bundle_command

__all__ = ["PlainLoop", "both_clocks", "measure", "medians", "scan_command_line"]


class PlainLoop(Inferer):
    """One slice at a time, averaged over both orientations; it replaces ``inferer`` in ``inference.json``.

    Args:
        profile: slice profile for the condition of the network.
    """

    def __init__(self, profile: str) -> None:
        super().__init__()
        self.profile = profile

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """``(1, 1, H1, H2, n)`` MetaTensor to ``(1, 1, H1, H2, N)``."""
        assert isinstance(inputs, MetaTensor)
        return plain_loop(inputs, network.to(memory_format=torch.contiguous_format), self.profile)


def both_clocks(run: Callable[[], object]) -> complex:
    """Wall-clock seconds (real part) and processor seconds (imaginary part) of the processes that a call starts."""
    before, started = os.times(), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - started, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return complex(seconds, busy)


def measure(scan: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Medians by command: ``seconds``, ``processor_seconds`` and ``ratio``, the speed-up over the plain loop.

    Args:
        scan: a thick scan.
        repeats: number of turns. One more turn goes first, in which ``thinslice`` measures the machine.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        plain: dict[str, Any] = {
            "inferer": "{'_target_': 'benchmarks.command.PlainLoop', 'profile': '@slice_profile'}",
            "device": "cpu",
        }
        ours = [sys.executable, "-m", "thinslice", scan, folder, "--device", "cpu"]
        commands = {
            "plain float32 loop": bundle_command(["inference.json"], dataset_dir=scan, output_dir=folder, **plain),
            "thinslice --exact": [*ours, "--exact"],
            "thinslice": ours,
        }
        run_process(ours)
        runs = {name: lambda words=words: run_process(words) for name, words in commands.items()}
        clocks = in_turns(runs, repeats, both_clocks)  # type: ignore[arg-type]
    return medians(clocks, lambda plain, own: plain / own)


def medians(
    clocks: Mapping[str, np.ndarray], ratio: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, dict[str, float]]:
    """Medians over the turns for each command: ``seconds``, ``processor_seconds`` and both ratios.

    Args:
        clocks: results of :func:`both_clocks` in each turn, by command.
        ratio: function of the seconds of the first command and of another command in the same turn.
    """
    first = next(iter(clocks.values()))
    return {
        name: {
            "seconds": float(np.median(found.real)),
            "processor_seconds": float(np.median(found.imag)),
            "ratio": float(np.median(ratio(first.real, found.real))),
            "processor_ratio": float(np.median(ratio(first.imag, found.imag))),
        }
        for name, found in clocks.items()
    }


def scan_command_line(description: str | None, measure: Callable[[Path, int], dict[str, dict[str, float]]]) -> None:
    """Command line of a benchmark that measures commands on one scan."""
    parser = parser_of(description)
    parser.add_argument("--scan", type=Path, required=True, help="a thick scan, NIfTI")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    report = measure(a.scan.resolve(), a.repeats)
    names = list(next(iter(report.values())))
    print(table(["command", *names], [[name, *(f"{v:.2f}" for v in row.values())] for name, row in report.items()]))
    save_report(report, a.output)


if __name__ == "__main__":
    scan_command_line(__doc__, measure)
