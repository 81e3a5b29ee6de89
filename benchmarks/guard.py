# SPDX-License-Identifier: Apache-2.0
"""Run all quick benchmarks, and compare them with the committed ``baseline.json``.

Only ratios within one run and exponents of cost laws are compared, because seconds mean nothing on another machine. The
exit code is 1 if a figure is worse than the baseline by more than its tolerance, or beyond a limit for all machines.

    python -m benchmarks.guard            # make bench
    python -m benchmarks.guard --update   # make this run the baseline
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.files import write_json

from benchmarks import inference, memory, processes, scaling, startup, training
from benchmarks.machine import parser_of, save_report, table
from tools.run_bundle import BUNDLE

BASELINE = Path(__file__).with_name("baseline.json")


@dataclass(frozen=True)
class Figure:
    """A figure that is compared.

    Args:
        path: keys of the figure in the report.
        higher_is_better: whether a higher value is better; if false, a lower value is.
        tolerance: relative change that counts as noise.
        limit: value that the figure must reach (or not exceed), whatever the baseline is.
    """

    path: tuple[str, ...]
    higher_is_better: bool
    tolerance: float
    limit: float | None = None

    @property
    def name(self) -> str:
        """Name in the table."""
        return ": ".join(part for part in self.path if part not in ("results", "arrangements"))

    def of(self, report: Mapping[str, Any]) -> float:
        """Value of the figure in a report."""
        value: Any = report
        for key in self.path:
            value = value[key]
        return float(value)

    def verdict(self, now: float, before: float | None) -> str:
        """Verdict on a value: ``same``, ``better``, ``WORSE``, ``BEYOND LIMIT`` or ``new``."""
        sign = 1 if self.higher_is_better else -1
        if self.limit is not None and sign * (now - self.limit) < 0:
            return "BEYOND LIMIT"
        if before is None:
            return "new"
        change = sign * (now - before)
        if abs(change) <= self.tolerance * abs(before):
            return "same"
        return "better" if change > 0 else "WORSE"


def speed_up(name: str, limit: float | None = None) -> Figure:
    """Speed-up of a candidate over the plain loop."""
    return Figure(("inference", "results", name, "speed_up"), higher_is_better=True, tolerance=0.15, limit=limit)


FIGURES = (
    speed_up("ours, torch"),
    speed_up("ours, onnxruntime"),
    speed_up("ours, openvino"),
    speed_up("ours, torch, bfloat16"),
    Figure(("inference", "results", "ours, torch", "share_of_convolution_peak"), True, 0.15),
    Figure(("inference", "results", "ours, torch", "max_difference_of_range"), False, 1.0, limit=1e-3),
    Figure(("inference", "results", "ours, openvino", "max_difference_of_range"), False, 1.0, limit=1e-3),
    Figure(("inference", "results", "ours, torch, bfloat16", "psnr_to_plain_db"), True, 0.03, limit=60.0),
    Figure(("inference", "computed_fraction"), False, 0.02),
    Figure(("startup", "ratio"), False, 0.2, limit=2.0),
    Figure(("scaling", "voxel_exponent"), False, 0.08),
    Figure(("memory", "bytes_per_output_voxel"), False, 0.1, limit=12.0),
    Figure(("processes", "arrangements", "one process, two workers", "batch_throughput"), True, 0.15),
    Figure(("training", "waiting", "stage 1", "waiting_share"), False, 2.0, limit=0.05),
    Figure(("training", "waiting", "stage 2", "waiting_share"), False, 2.0, limit=0.05),
    Figure(("training", "kept_bytes_per_batch"), False, 0.02),
)


def compare(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per figure; a figure that the baseline lacks is ``new``."""
    rows = []
    for figure in FIGURES:
        now = figure.of(report)
        try:
            before = figure.of(baseline)
        except KeyError:
            before = None
        rows.append({"figure": figure, "now": now, "before": before, "verdict": figure.verdict(now, before)})
    return rows


def worse(rows: list[dict[str, Any]]) -> bool:
    """Whether a figure is worse than the baseline or beyond its limit."""
    return any(row["verdict"].isupper() for row in rows)


def measure() -> dict[str, Any]:
    """Run all benchmarks at small sizes, which takes minutes."""
    report: dict[str, Any] = {}
    parts = {
        "inference": lambda: inference.measure(inference.half_air(96, 16, 0), 3, BUNDLE / "models" / "model.pt"),
        "startup": lambda: startup.measure(3),
        "scaling": lambda: scaling.measure(2),
        "memory": lambda: memory.measure([(320, 320, 48), (448, 448, 64)]),
        "processes": lambda: processes.measure(8, 64, 12, 1),
        "training": lambda: training.measure(10),
    }
    for name, run in parts.items():
        started = time.perf_counter()
        report[name] = run()
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return report


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.set_defaults(output=Path("out/bench.json"))
    parser.add_argument("--update", action="store_true", help="write this run to benchmarks/baseline.json")
    parser.add_argument("--report", type=Path, help="compare this JSON of an earlier run instead of measuring")
    a = parser.parse_args()
    if a.report:
        report = json.loads(a.report.read_text())
    else:
        report = measure()
        save_report(report, a.output)
        report = json.loads(a.output.read_text())
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    rows = compare(report, baseline)
    print(
        table(
            ["", "now", "baseline", "tolerance", ""],
            [
                [
                    r["figure"].name,
                    f"{r['now']:.3g}",
                    "" if r["before"] is None else f"{r['before']:.3g}",
                    f"{100 * r['figure'].tolerance:.0f} %",
                    r["verdict"],
                ]
                for r in rows
            ],
        )
    )
    if a.update:
        write_json(BASELINE, report)
        print(f"written: {BASELINE.name}")
    elif worse(rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
