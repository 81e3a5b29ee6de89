# SPDX-License-Identifier: Apache-2.0
"""Find weights for TV and LRTV: gain over cubic for a grid of weights, on a subject that no table uses for scoring.

    python -m studies.lrtv_weights --hr <folder of thin MR, not of the test> [--side 64]

The study uses the middle of each volume and prints a Markdown table; put the best weights into ``table1.json``. A whole
head takes long, so crop it first (``python -m studies.crop``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from studies.cases import CaseSet
from studies.peers.interpolation import bicubic
from studies.peers.lrtv import LRTV
from studies.peers.scan import Scan

TOTAL_VARIATION = (0.00025, 0.0005, 0.001, 0.002, 0.004)
LOW_RANK = (0.0, 0.003, 0.01, 0.03, 0.1)


def gains(scan: Scan, truth: torch.Tensor) -> np.ndarray:
    """``(low_rank, total_variation)`` table of dB over cubic interpolation."""
    errors = np.array(
        [
            [
                float((LRTV(r, tv, 0.02, 1e-4, 150).solve(scan, np.inf) - truth).square().mean())
                for tv in TOTAL_VARIATION
            ]
            for r in tqdm(LOW_RANK, desc="weights")
        ]
    )
    return 10 * np.log10(float((bicubic(scan) - truth).square().mean()) / errors)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--protocol", default="axial")
    parser.add_argument("--side", type=int, default=64, help="of the middle in-plane, pixels")
    arguments = parser.parse_args()
    cases = CaseSet(arguments.hr, arguments.protocol, {"device": "cpu"})
    tables = []
    for index in range(len(cases.names)):
        scan, truth = cases.case(index).slab(arguments.side)
        start = max(0, (truth.shape[1] - arguments.side) // 2)
        columns = slice(start, start + arguments.side)
        middle = Scan(scan.image[:, columns].contiguous(), scan.spacing_mm, scan.operator)
        tables.append(gains(middle, truth[:, columns]))
    print("| low_rank | " + " | ".join(f"TV {tv:g}" for tv in TOTAL_VARIATION) + " |")
    print("|---" * (len(TOTAL_VARIATION) + 1) + "|")
    for low_rank, row in zip(LOW_RANK, np.mean(tables, axis=0), strict=True):
        print(f"| {low_rank:g} | " + " | ".join(f"{gain:+.2f}" for gain in row) + " |")


if __name__ == "__main__":
    main()
