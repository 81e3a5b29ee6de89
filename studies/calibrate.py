# SPDX-License-Identifier: Apache-2.0
"""What the disagreement map is worth: does it rank the true error, and on what scale?

Thin-slice volumes are made thick, super-resolved with ``--disagreement True`` as any user would, and the map is held
against the error that the truth reveals. Writes ``calibration.json`` and ``calibration.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from scipy.stats import spearmanr
from scripts.data.cases import find_cases
from scripts.evaluation.metrics import foreground
from scripts.files import write_json
from scripts.transforms.degrade import DegradeVolume
from scripts.transforms.load import LoadImageVolumed

from tools.run_bundle import accept_overrides, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt


def calibration(spread: np.ndarray, error: np.ndarray, bins: int) -> dict[str, Any]:
    """Reliability and ranking over the voxels of one volume.

    Args:
        spread: disagreement at each voxel, ``(n,)``, any unit.
        error: absolute error at each voxel, ``(n,)``, the same unit.
        bins: number of equally full bins.

    Returns:
        ``bins``: mean spread and root mean square error of each bin, rising spread; ``spearman``: rank correlation;
        ``error_in_top_tenth``: share of the squared error that lies in the tenth of the voxels with most spread, and
        ``error_in_top_tenth_best`` in the tenth with most error, the most any map could reach.
    """
    order = np.argsort(spread, kind="stable")
    groups = np.array_split(order, bins)
    squared = error**2
    tenth = max(1, len(order) // 10)
    return {
        "bins": [[float(spread[g].mean()), float(np.sqrt(squared[g].mean()))] for g in groups],
        "spearman": float(spearmanr(spread, error).statistic),
        "error_in_top_tenth": float(squared[order[-tenth:]].sum() / squared.sum()),
        "error_in_top_tenth_best": float(np.sort(squared)[-tenth:].sum() / squared.sum()),
    }


def measure(dataset_dir: Path, axis: str, scale_factor: float, bins: int, ids: dict[str, Any]) -> dict[str, Any]:
    """Degrade, run, compare every volume of a folder; unit: percent of the truth's range."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        thick_dir, output_dir = Path(folder) / "thick", Path(folder) / "out"
        thick_dir.mkdir()
        truths = {}
        for item in find_cases(dataset_dir).items:
            volume = LoadImageVolumed("image")({"image": item["image"], "case": item["case"]})["image"]
            thick, thin = DegradeVolume(scale_factor, axis)(volume)
            name = str(item["case"])
            nib.save(nib.Nifti1Image(thick[0].numpy(), thick.affine.numpy()), thick_dir / f"{name}.nii.gz")
            truths[name] = thin[0].numpy()
        ids = {"slice_profile": "gaussian", "scale_factor": scale_factor, **ids}  # what DegradeVolume has just done
        run_bundle(["inference.json"], dataset_dir=thick_dir, output_dir=output_dir, disagreement=True, **ids)
        for name, truth in truths.items():
            found, spread = (
                np.asarray(nib.load(output_dir / f"{name}_{suffix}.nii.gz").dataobj, np.float64)
                for suffix in ("sr", "disagreement")
            )
            unit = 100 / (truth.max() - truth.min())
            tissue = foreground(truth)
            results[name] = calibration(spread[tissue] * unit, np.abs(found - truth)[tissue] * unit, bins)
    return results


def draw(results: dict[str, dict], path: Path) -> None:
    """Reliability diagram: true error against disagreement, one line per volume."""
    figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
    for name, result in results.items():
        spread, error = np.transpose(result["bins"])
        axes.plot(spread, error, "o-", ms=3, label=f"{name} (rank correlation {result['spearman']:.2f})")
    top = max(axes.get_xlim()[1], 1e-6)
    axes.plot([0, top], [0, top], "k:", lw=1, label="equal")
    axes.set_xlabel("disagreement, % of the range")
    axes.set_ylabel("root mean square error, % of the range")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="thin-slice MR volumes that were never trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--axis", default="axial")
    parser.add_argument("--scale-factor", type=float, default=4)
    parser.add_argument("--bins", type=int, default=20)
    accept_overrides(parser)
    arguments = parser.parse_args()
    ids = dict(arguments.set)
    results = measure(arguments.data, arguments.axis, arguments.scale_factor, arguments.bins, ids)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "calibration.json", results)
    draw(results, arguments.output / "calibration.png")
    for name, result in results.items():
        print(
            f"{name}: rank correlation {result['spearman']:.2f}; the tenth of the tissue with most disagreement holds "
            f"{100 * result['error_in_top_tenth']:.0f} % of the squared error (at best "
            f"{100 * result['error_in_top_tenth_best']:.0f} %)"
        )


if __name__ == "__main__":
    main()
