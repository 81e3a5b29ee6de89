# SPDX-License-Identifier: Apache-2.0
"""The slice profile of real thick scans: how much data consistency corrects, and how that changes the result.

The network learns from many profiles and widths and infers thin slices without knowing the profile. If data consistency
assumes the true profile of the scan, it has little to correct. If the assumed profile is too wide, it sharpens
structures across the slices that were never blurred, and a pattern with the period of the thick slices appears in the
thin slices. The study works on the middle of each scan, with exact data consistency. Prints a Markdown table.

    python -m studies.slice_profiles --data <folder of thick MR>
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scripts.data.cases import find_cases, read_case
from scripts.degradation import SliceProfileOperator
from scripts.evaluation.metrics import psnr
from scripts.geometry import SliceGrid, find_thick_axis
from scripts.inference.predictor import Predictor
from scripts.networks.interpolation import interpolate_cubic
from scripts.training.collapse import period_peak
from tqdm import tqdm

ASSUMED = (("gaussian", 1.0), ("gaussian", 0.8), ("box", 1.0), ("box", 0.9))


def middle(volume: np.ndarray, thick_axis: int, side: int) -> np.ndarray:
    """The middle ``side`` x ``side`` pixels of all slices, with the thick axis last."""
    moved = np.moveaxis(volume, thick_axis, 2)
    start = [max(0, (n - side) // 2) for n in moved.shape[:2]]
    return np.ascontiguousarray(moved[start[0] : start[0] + side, start[1] : start[1] + side])


def study(acquired: torch.Tensor, thin: torch.Tensor, scale_factor: int) -> dict[str, tuple[float, float]]:
    """``(correction / standard deviation of the scan, period figure)`` for each assumed profile.

    Args:
        acquired: ``(H1, H2, n_slices)``.
        thin: ``(H1, H2, n_thin)``, the network's result without data consistency.
        scale_factor: K, a whole number.
    """
    grid = SliceGrid.over_slab(acquired.shape[-1], scale_factor)
    cubic = interpolate_cubic(acquired, grid.positions_tensor())
    rows = {"cubic": (float("nan"), period_peak(cubic[:, None], scale_factor))}
    rows["network alone"] = (0.0, period_peak(thin[:, None], scale_factor))
    for profile, ratio in ASSUMED:
        operator = SliceProfileOperator(grid, profile, ratio)
        result = operator.enforce(thin.clone(), acquired)
        correction = float((result - thin).square().mean().sqrt() / acquired.std())
        rows[f"{profile} {ratio:g}"] = (correction, period_peak(result[:, None], scale_factor))
    return rows


def cost_of_a_wrong_profile(truth: np.ndarray, predictor: Predictor, factor: int) -> dict[str, dict[str, float]]:
    """PSNR in dB of a thin volume, by the profile with which it is made thick and the profile that is assumed."""
    grid = SliceGrid.under_slab(truth.shape[2], factor)
    truth = truth[..., : grid.n_thin]
    thin, affine = torch.from_numpy(truth.copy()), np.diag([1.0, 1.0, float(factor), 1.0])
    result: dict[str, dict[str, float]] = {}
    for made in ("gaussian", "box"):
        acquired = SliceProfileOperator(grid, made).degrade(thin)
        alone = predictor(acquired.numpy(), affine).as_tensor().float()
        result[made] = {
            assumed: psnr(
                SliceProfileOperator(grid, assumed).enforce(alone.clone(), acquired).numpy(),
                truth,
                float(np.ptp(truth)),
            )
            for assumed in ("gaussian", "box")
        }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--thin", type=Path, help="thin MR, on which a wrong profile has a price")
    parser.add_argument("--side", type=int, default=72, help="of the middle, pixels")
    parser.add_argument("--scale-factor", type=int, default=4, help="whole: the rhythm of the slices is counted")
    arguments = parser.parse_args()
    predictor = Predictor(
        scale_factor=arguments.scale_factor, data_consistency="off", output_dtype="float32", progress=False
    )  # fmt: skip
    factor = arguments.scale_factor
    scans = {}
    for item in tqdm(find_cases(arguments.data).items, desc="scans"):
        _, volume = read_case(item["image"])
        axis = find_thick_axis(volume.affine_ras)
        acquired = middle(volume.array, axis, arguments.side)
        affine = volume.affine_ras[:, [*[a for a in range(3) if a != axis], axis, 3]]
        thin = predictor(acquired, affine).as_tensor().float()
        scans[str(item["case"])] = study(torch.from_numpy(acquired), thin, factor)
    names = list(next(iter(scans.values())))
    print("| scan | " + " | ".join(f"{name}" for name in names) + " |\n|---" * 1 + "|---" * len(names) + "|")
    for scan, rows in scans.items():
        cells = [f"{p:.2f}" if np.isnan(c) or not c else f"{100 * c:.1f} %, {p:.2f}" for c, p in rows.values()]
        print(f"| {scan} | " + " | ".join(cells) + " |")
    mean = [np.array([rows[name] for rows in scans.values()]).mean(axis=0) for name in names]
    cells = [f"{p:.2f}" if np.isnan(c) or not c else f"{100 * c:.1f} %, {p:.2f}" for c, p in mean]
    print("| mean | " + " | ".join(cells) + " |")
    for item in find_cases(arguments.thin).items if arguments.thin else []:
        truth = middle(read_case(item["image"])[1].array, 2, arguments.side)
        for made, found in cost_of_a_wrong_profile(truth, predictor, factor).items():
            shown = ", ".join(f"{value:.2f} dB taken for {assumed}" for assumed, value in found.items())
            print(f"{item['case']} made thick with {made}: {shown}")


if __name__ == "__main__":
    main()
