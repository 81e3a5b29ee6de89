# SPDX-License-Identifier: Apache-2.0
"""The benefit of stage 3: stages 1, 1+2 and 1+2+3, in our form and the paper's, for several seeds, on unseen volumes.

All rows have the same iterations, sizes and stage 1. The paper's rows take stages 2 and 3 of the paper with its own
rate and batch size. Every training and every scoring runs the bundle's own command. Finished parts are not repeated, so
that the study can be interrupted. Writes ``ablation.md``, ``ablation.json``, and the gradient norm of every term at
SRNet over stage 3 as ``gradient_norms.json`` and ``gradient_norms.png``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np

from thinslice.curves import read_curves
from tools.run_bundle import ROOT, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt
from scripts.files import write_json

SIZES = ROOT / "studies" / "small.json"
ROWS = {
    "stage 1": "anchored/stage1",
    "stages 1, 2": "anchored/stage2",
    "1, 2, 3 anchored": "anchored/stage3",
    "stages 1, 2 paper": "paper/stage2",
    "1, 2, 3 paper": "paper/stage3",
}


def crop(source: Path, target: Path, side: int) -> None:
    """Write the middle cubes of the volumes, so that scoring does not take longer than training."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.nii*")):
        if not (target / path.name).exists():
            image = nib.load(path)
            start = [max(0, (n - side) // 2) for n in image.shape]
            nib.save(image.slicer[tuple(slice(s, s + side) for s in start)], target / path.name)


def train(arguments: argparse.Namespace, seed: int, folder: Path) -> None:
    """Train all stages for one seed, in a folder per variant. Both variants start from the same stage 1."""
    common = {"ct_dir": arguments.ct, "mr_dir": arguments.mr, "seed": seed}
    if arguments.datalist:
        common["datalist_file"] = arguments.datalist
    # divergence is a result here, not a reason to stop
    watch: dict[str, Any] = {"max_gradient_growth": 1e9, "max_period_peak": 1e9}
    for variant in ("anchored", "paper"):
        output = folder / variant
        output.mkdir(parents=True, exist_ok=True)
        if variant == "paper" and not (output / "stage1.pt").exists():
            shutil.copyfile(folder / "anchored" / "stage1.pt", output / "stage1.pt")
        for stage, iterations in enumerate(arguments.iterations, start=1):
            if (output / f"stage{stage}.pt").exists():
                continue
            paper = [f"stage{stage}_paper.json"] if variant == "paper" else []
            configs = ["common.json", f"train_stage{stage}.json", str(SIZES), *paper]
            ids = watch if stage > 1 else {}
            run_bundle(configs, "training", output_dir=output, stage_iterations=iterations, **ids, **common)


def score(folder: Path, volumes: Path) -> dict[str, dict[str, float]]:
    """Gain over cubic in dB for every row on every volume."""
    gains: dict[str, dict[str, float]] = {}
    for row, name in ROWS.items():
        weights = folder / f"{name}.pt"
        output = folder / "scores" / name
        if not (output / "metrics.csv").exists():
            configs = ["inference.json", "evaluate.json", str(SIZES)]
            run_bundle(configs, "evaluating", dataset_dir=volumes, output_dir=output, ckpt_path=weights)
        with (output / "metrics.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        psnr = {(line["case"], line["method"]): float(line["psnr"]) for line in lines}
        cases = sorted({case for case, _ in psnr})
        gains[row] = {case: psnr[case, "ours"] - psnr[case, "bicubic"] for case in cases}
    return gains


def draw(norms: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Draw the gradient norm of each term at SRNet's parameters over stage 3, with one panel per variant."""
    figure, axes = plt.subplots(1, len(norms), figsize=(5 * len(norms), 3.6), layout="constrained", sharey=True)
    for axis, (variant, terms) in zip(np.atleast_1d(axes), norms.items(), strict=True):
        for term, (steps, values) in sorted(terms.items()):
            axis.plot(steps, np.maximum(values, 1e-6), label=term, lw=1)
        axis.set(yscale="log", title=variant, xlabel="iteration of stage 3")
        axis.legend(fontsize=7)
    np.atleast_1d(axes)[0].set_ylabel("gradient norm at SRNet")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--mr", type=Path, required=True)
    parser.add_argument("--hr", type=Path, required=True, help="thin-slice MR to score on, never trained on")
    parser.add_argument("--datalist", type=Path, help="as datalist_file")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--iterations", type=int, nargs=3, default=(600, 600, 300), help="of stages 1, 2 and 3")
    parser.add_argument("--crop", type=int, default=96, help="side of the middle cube that is scored, voxels")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    crop(arguments.hr, output / "volumes", arguments.crop)
    results = {}
    for seed in arguments.seeds:
        train(arguments, seed, output / f"seed{seed}")
        results[seed] = score(output / f"seed{seed}", output / "volumes")
    norms = {
        variant: {
            tag.removeprefix("gradient_norm/"): curve
            for tag, curve in read_curves(output / f"seed{arguments.seeds[0]}" / variant / "tensorboard")[
                "stage3"
            ].items()
            if tag.startswith("gradient_norm/")
        }
        for variant in ("paper", "anchored")
    }
    write_json(output / "gradient_norms.json", norms, indent=None)
    draw(norms, output / "gradient_norms.png")
    write_json(output / "ablation.json", results)
    cases = list(next(iter(results.values()))["stage 1"])
    lines = ["| gain over cubic, dB | " + " | ".join(cases) + " | mean |", "|---" * (len(cases) + 2) + "|"]
    for row in ROWS:
        table = np.array([[results[seed][row][case] for case in cases] for seed in arguments.seeds])
        table = np.concatenate([table, table.mean(axis=1, keepdims=True)], axis=1)
        cells = [
            f"{m:+.2f} ± {s:.2f}" for m, s in zip(table.mean(0), table.std(0, ddof=min(1, len(table) - 1)), strict=True)
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    (output / "ablation.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
