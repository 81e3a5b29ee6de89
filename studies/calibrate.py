# SPDX-License-Identifier: Apache-2.0
"""What the self-check is worth: does the error map cover the true error, and is the predicted gain the true one?

Thin-slice volumes are made thick, super-resolved with ``--self_check True --error_map True`` as any user would, and
what the scan says of itself is held against what the truth reveals: the gain where the self-check states it (over the
tissue), and over the whole volume beside it. Writes ``calibration.json`` and ``calibration.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from scipy.stats import spearmanr
from scripts.data.cases import find_cases
from scripts.evaluation.metrics import foreground, psnr
from scripts.files import write_json
from scripts.geometry import find_thick_axis
from scripts.transforms.degrade import DegradeVolume
from scripts.transforms.load import LoadImageVolumed

from studies.crop import middle
from studies.cubic import cubic_results, gain_in_tissue_db
from studies.failure_cases import heavy_noise
from tools.run_bundle import accept_overrides, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt


def calibration(spread: np.ndarray, error: np.ndarray, bins: int) -> dict[str, Any]:
    """Reliability, coverage and ranking over the voxels of one volume.

    Args:
        spread: half-width of the interval at each voxel, ``(n,)``, any unit.
        error: absolute error at each voxel, ``(n,)``, the same unit.
        bins: number of equally full bins.

    Returns:
        ``bins``: mean spread and root mean square error of each bin, rising spread; ``spearman``: rank correlation;
        ``spearman_if_exact``: what it would be if every error were drawn from a Laplace distribution of just this
        spread; ``covered``: share of the voxels whose error is within it; ``mean_width`` of it; ``widen_to_90``: how
        many times as wide it must be to cover nine tenths;
        ``error_in_top_tenth``: share of the squared error that lies in the tenth of the voxels with most spread, and
        ``error_in_top_tenth_best`` in the tenth with most error, the most any map could reach.
    """
    order = np.argsort(spread, kind="stable")
    groups = np.array_split(order, bins)
    squared = error**2
    tenth = max(1, len(order) // 10)
    return {
        "bins": [[float(spread[g].mean()), float(np.sqrt(squared[g].mean()))] for g in groups],
        "covered": float((error <= spread).mean()),
        "mean_width": float(spread.mean()),
        "widen_to_90": float(np.quantile(error / np.maximum(spread, 1e-9), 0.9)),
        "spearman": float(spearmanr(spread, error).statistic),
        "spearman_if_exact": float(
            spearmanr(spread, spread * np.random.default_rng(0).exponential(size=len(spread))).statistic
        ),
        "error_in_top_tenth": float(squared[order[-tenth:]].sum() / squared.sum()),
        "error_in_top_tenth_best": float(np.sort(squared)[-tenth:].sum() / squared.sum()),
    }


def measure(
    dataset_dir: Path, axis: str, scale_factor: float, noise: float, size: int | None, bins: int, ids: dict[str, Any]
) -> dict[str, Any]:
    """Degrade, run, compare every volume of a folder; unit of the map: percent of the truth's range.

    Args:
        dataset_dir: thin-slice volumes.
        axis: plane of the thick slices.
        scale_factor: K.
        noise: Rician noise added to the thick slices, as a share of their 99th percentile.
        size: only the middle so many voxels along each axis; ``None`` takes all.
        bins: see :func:`calibration`.
        ids: overrides of ids of ``inference.json``.
    """
    results: dict[str, Any] = {}
    ids = {
        "slice_profile": "gaussian", "scale_factor": scale_factor, "self_check": True, "error_map": True,
        "output_dtype": "float32", **ids,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        thick_dir, output_dir = Path(folder) / "thick", Path(folder) / "out"
        thick_dir.mkdir()
        cases = {}
        for item in find_cases(dataset_dir).items:
            volume = LoadImageVolumed("image")({"image": item["image"], "case": item["case"]})["image"]
            if size:
                volume = volume[(slice(None), *middle(volume.shape[1:], size))]
            thick, thin = DegradeVolume(scale_factor, axis, ids["slice_profile"])(volume)
            name, array = str(item["case"]), thick.as_tensor()[0].numpy()
            if noise:
                array = heavy_noise(array, np.random.default_rng(0), noise).astype(np.float32)
            nib.save(nib.Nifti1Image(array, thick.affine.numpy()), thick_dir / f"{name}.nii.gz")
            cases[name] = (array, find_thick_axis(thick.affine.numpy(), axis), thin.as_tensor()[0].numpy())
        run_bundle(["inference.json"], dataset_dir=thick_dir, output_dir=output_dir, **ids)
        for name, (array, thick_axis, truth) in cases.items():
            found, spread = (
                np.asarray(nib.load(output_dir / f"{name}_{suffix}.nii.gz").dataobj, np.float64)
                for suffix in ("sr", "error")
            )
            quality = json.loads((output_dir / f"{name}_quality.json").read_text())
            slices, result, target = (np.moveaxis(x, thick_axis, 2) for x in (array, found, truth))
            _, consistent = cubic_results(slices, scale_factor, ids["slice_profile"])
            data_range = float(truth.max() - truth.min())
            tissue = foreground(truth)
            unit = 100 / data_range
            results[name] = {
                "gain_db": gain_in_tissue_db(result, consistent, target, slices),
                "gain_of_volume_db": psnr(result, target, data_range) - psnr(consistent, target, data_range),
                "predicted_gain_db": quality["numbers"]["gain_over_consistent_cubic_db"]["value"],
                "withheld": quality["withheld"],
                "flags": quality["flags"],
                **calibration(spread[tissue] * unit, np.abs(found - truth)[tissue] * unit, bins),
            }
    return results


def draw(results: dict[str, dict], path: Path) -> None:
    """True error against the half-width of the interval, and true gain against the predicted one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 5.0), layout="constrained")
    for name, result in results.items():
        spread, error = np.transpose(result["bins"])
        left.plot(spread, error, "o-", ms=3, label=f"{name} (covers {100 * result['covered']:.0f} %)")
        if result["predicted_gain_db"] is not None:
            right.plot(result["predicted_gain_db"], result["gain_db"], "o", ms=5)
    left.set_xlabel("half-width of the 90 % interval, % of the range")
    left.set_ylabel("root mean square error, % of the range")
    figure.legend(loc="outside lower center", ncols=3, fontsize=6)
    low, high = min(right.get_xlim()[0], right.get_ylim()[0]), max(right.get_xlim()[1], right.get_ylim()[1])
    right.plot([low, high], [low, high], "k:", lw=1)
    right.set_xlabel("predicted gain over cubic with data consistency, dB")
    right.set_ylabel("true gain, dB, in the tissue")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="thin-slice MR volumes that were never trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--axis", default="axial")
    parser.add_argument("--scale-factors", type=float, nargs="+", default=[3.0, 4.0, 6.0])
    parser.add_argument("--profiles", nargs="+", default=["gaussian", "box"])
    parser.add_argument("--noises", type=float, nargs="+", default=[0.0], help="shares of the 99th percentile")
    parser.add_argument("--size", type=int, help="only the middle so many voxels along each axis; default: all")
    parser.add_argument("--bins", type=int, default=20)
    accept_overrides(parser)
    arguments = parser.parse_args()
    ids = dict(arguments.set)
    results: dict[str, Any] = {}
    for factor, profile, noise in itertools.product(arguments.scale_factors, arguments.profiles, arguments.noises):
        found = measure(
            arguments.data, arguments.axis, factor, noise, arguments.size, arguments.bins,
            {"slice_profile": profile, **ids},
        )  # fmt: skip
        results |= {f"{name}, {profile}, K = {factor:g}, noise {noise:g}": result for name, result in found.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "calibration.json", results)
    draw(results, arguments.output / "calibration.png")
    for name, result in results.items():
        gain = None if result["withheld"] else result["predicted_gain_db"]
        predicted = "withheld" if gain is None else f"{gain:+.2f}"
        print(
            f"{name}: gain {result['gain_db']:+.2f} dB, predicted {predicted}, "
            f"gain of the whole volume {result['gain_of_volume_db']:+.2f}; "
            f"the interval covers {100 * result['covered']:.0f} %, "
            f"half-width {result['mean_width']:.2f} % of the range ({result['widen_to_90']:.2f} times it covers 90 %); "
            f"rank correlation {result['spearman']:.2f} (an exact map: {result['spearman_if_exact']:.2f}); "
            f"its largest tenth holds {100 * result['error_in_top_tenth']:.0f} % of the squared error "
            f"(at best {100 * result['error_in_top_tenth_best']:.0f} %); {', '.join(result['flags']) or 'no flag'}"
        )


if __name__ == "__main__":
    main()
