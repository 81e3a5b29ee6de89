# SPDX-License-Identifier: Apache-2.0
"""Cost laws of inference: seconds against voxels, against K, and against the size of the network.

Air is not skipped, so that all voxels are computed. Exponents are slopes of least-squares lines through logarithms: 1
means that twice the voxels take twice the time.

    python -m benchmarks.scaling
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from scripts.inference.inferer import ThroughPlaneInferer

from benchmarks.inference import SCALE_FACTOR, as_scan, convolution_flops
from benchmarks.machine import fit_power, in_turns, inference_parser, parser_of, save_report, table

SIZES = ((40, 12), (56, 12), (80, 12), (112, 12), (112, 24))  # rows = columns, slices
FACTORS = (2, 3, 4, 6)
BLOCKS = (2, 4, 8, 16)


def inference_of(rows: int, slices: int, **ids: Any) -> tuple[Callable[[], torch.Tensor], Any]:
    """A call without arguments that super-resolves one volume of noise, and its network."""
    parser = inference_parser(background=float("-inf"), **ids)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").to(memory_format=torch.channels_last).eval()
    inferer: ThroughPlaneInferer = parser.get_parsed_content("inferer")
    volume = as_scan(torch.rand(1, 1, rows, rows, slices) * 2 - 1, float(ids.get("scale_factor", SCALE_FACTOR)))
    return lambda: inferer(volume, network), network


def seconds(cases: dict[Any, tuple[int, int, dict[str, Any]]], repeats: int) -> dict[Any, float]:
    """Fewest seconds of every case, measured in turns after one round that does not count."""
    runs = {key: inference_of(rows, slices, **ids)[0] for key, (rows, slices, ids) in cases.items()}
    in_turns(runs, 1)
    return {key: float(values.min()) for key, values in in_turns(runs, repeats).items()}


def measure(
    repeats: int,
    sizes: Sequence[tuple[int, int]] = SIZES,
    factors: Sequence[int] = FACTORS,
    blocks: Sequence[int] = BLOCKS,
    **ids: Any,
) -> dict[str, Any]:
    """Measure the three laws; ``ids`` override ``inference.json``."""
    by_size = seconds({size: (*size, ids) for size in sizes}, repeats)
    voxels = [rows * rows * slices for rows, slices in by_size]
    rows, slices = sizes[0]
    by_factor = seconds({k: (rows, slices, {"scale_factor": k, **ids}) for k in factors}, repeats)
    by_blocks = seconds({d: (rows, slices, {**ids, "network_def::blocks": d}) for d in blocks}, repeats)
    flops = {
        d: convolution_flops(inference_of(8, 8, **{**ids, "network_def::blocks": d})[1], (1, 1, 32, 32)) / 32**2
        for d in blocks
    }
    return {
        "voxels": [
            {"rows": r, "slices": s, "voxels": n, "seconds": t}
            for ((r, s), t), n in zip(by_size.items(), voxels, strict=True)
        ],
        "voxel_exponent": fit_power(voxels, list(by_size.values())),
        "scale_factor": [{"scale_factor": k, "seconds": t} for k, t in by_factor.items()],
        "scale_factor_exponent": fit_power(list(by_factor), list(by_factor.values())),
        "network": [{"blocks": d, "flops_per_pixel": flops[d], "seconds": t} for d, t in by_blocks.items()],
        "flops_exponent": fit_power(list(flops.values()), list(by_blocks.values())),
    }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    report = measure(a.repeats)
    for key, exponent in (
        ("voxels", "voxel_exponent"),
        ("scale_factor", "scale_factor_exponent"),
        ("network", "flops_exponent"),
    ):
        rows = report[key]
        print(table(list(rows[0]), [[f"{value:.4g}" for value in row.values()] for row in rows]))
        print(f"{exponent}: {report[exponent]:.3f}\n")
    save_report(report, a.output)


if __name__ == "__main__":
    main()
