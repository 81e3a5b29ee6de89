# SPDX-License-Identifier: Apache-2.0
"""Scans for which the model is not intended: its results, in numbers and one picture.

Each case is a known thin-slice volume that is degraded by a fault, made thick, and super-resolved with the command of
the bundle. Writes ``failure_cases.json`` and ``failure_cases.png``, which shows the thick slices, cubic interpolation,
the model and the truth, with the verdict of the self-check.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from scripts.evaluation.metrics import foreground, psnr
from scripts.files import write_json
from scripts.geometry import SliceGrid
from scripts.nifti import read_nifti
from scripts.transforms.degrade import thicken

from studies.crop import middle
from studies.cubic import cubic_results, gain_in_tissue_db
from tools.run_bundle import accept_overrides, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt

PROFILE = "gaussian"  # of the thick slices; the bundle is given the same profile


def checkerboard(shape: tuple[int, int, int]) -> np.ndarray:
    """No anatomy: bars and squares with all periods along the thick axis, from 2 thin slices upwards."""
    i, j, k = np.indices(shape)
    period = 2 + 14 * i / shape[0]
    return 500 + 400 * np.sign(np.sin(2 * np.pi * k / period)) * np.where(j // 16 % 2, 1, 0.3)


def heavy_noise(volume: np.ndarray, rng: np.random.Generator, fraction: float) -> np.ndarray:
    """Rician noise with ``fraction`` of the 99th percentile as its standard deviation."""
    sigma = fraction * np.percentile(volume, 99)
    return np.hypot(volume + rng.normal(0, sigma, volume.shape), rng.normal(0, sigma, volume.shape))


def ghosting(volume: np.ndarray, shift: int, strength: float) -> np.ndarray:
    """Ghosts of a periodic motion along axis 1."""
    return volume + strength * (np.roll(volume, shift, axis=1) + np.roll(volume, -shift, axis=1))


def slice_motion(thick: np.ndarray, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """Shift every other slice in-plane, as if the head moved between the passes of an interleaved scan."""
    moved = thick.copy()
    for k in range(1, thick.shape[2], 2):
        moved[:, :, k] = np.roll(thick[:, :, k], int(rng.integers(1, pixels + 1)), axis=0)
    return moved


def spikes(thick: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A spike in the raw data of every fourth slice, seen as stripes of ``strength`` times the 99th percentile."""
    striped = thick.copy()
    i, j = np.indices(thick.shape[:2])
    for k in range(0, thick.shape[2], 4):
        a, b = rng.uniform(0.1, 0.4, 2)
        striped[..., k] += strength * np.percentile(thick, 99) * np.cos(2 * np.pi * (a * i + b * j))
    return striped.clip(0)


def bias(volume: np.ndarray, strength: float) -> np.ndarray:
    """Bias field of a surface coil: a factor that falls along axis 0 from ``1 + strength`` to ``1 - strength``."""
    return volume * np.linspace(1 + strength, 1 - strength, volume.shape[0])[:, None, None]


def metal(volume: np.ndarray, radius: int) -> np.ndarray:
    """Two implants: no signal within ``radius`` voxels of each, and a bright rim around it."""
    spoilt = volume.copy()
    grid = np.indices(volume.shape)
    for share in (0.35, 0.65):
        centre = np.array([volume.shape[0] * share, volume.shape[1] * 0.5, volume.shape[2] * share])
        distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
        spoilt[distance < radius] = 0
        spoilt[(distance >= radius) & (distance < radius + 2)] = np.percentile(volume, 99.5)
    return spoilt


def wrapped(volume: np.ndarray, share: float) -> np.ndarray:
    """A field of view that is too small along axis 1: the anatomy outside is folded in at the other side."""
    cut = int(volume.shape[1] * share)
    inner = volume[:, cut:-cut].copy()
    inner[:, -cut:] += volume[:, :cut]
    inner[:, :cut] += volume[:, -cut:]
    return inner


def zero_filled(thick: np.ndarray) -> np.ndarray:
    """Half of the matrix is acquired and the rest of the raw data filled with zeros, as scanners do by default."""
    raw = np.fft.fftshift(np.fft.fft2(thick, axes=(0, 1)), axes=(0, 1))
    kept = np.zeros(thick.shape[:2] + (1,))
    a, b = (n // 4 for n in thick.shape[:2])
    kept[a:-a, b:-b] = 1
    return np.abs(np.fft.ifft2(np.fft.ifftshift(raw * kept, axes=(0, 1)), axes=(0, 1)))


def odd_even(thick: np.ndarray, loss: float) -> np.ndarray:
    """Darken every other slice, as if the slices of an interleaved scan excited each other."""
    darker = thick.copy()
    darker[..., 1::2] *= 1 - loss
    return darker


def one_darker(thick: np.ndarray, loss: float) -> np.ndarray:
    """Darken the middle slice, as if the gain of the receiver changed once."""
    darker = thick.copy()
    darker[..., thick.shape[-1] // 2] *= 1 - loss
    return darker


def cases(volume: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    """Truth, and function that is applied to its thick slices, by name of the fault.

    The truth is the degraded thin volume. For faults that act on the thick slices, it is the original volume.
    """
    rng = np.random.default_rng(seed)
    tiny = middle(volume.shape[:2], 40)
    return {
        "head (as intended)": (volume, lambda thick: thick),
        "no anatomy": (checkerboard(volume.shape), lambda thick: thick),
        "heavy noise": (volume, lambda thick: heavy_noise(thick, rng, 0.15)),
        "motion ghosts": (ghosting(volume, volume.shape[1] // 6, 0.2), lambda thick: thick),
        "motion between slices": (volume, lambda thick: slice_motion(thick, rng, 4)),
        "tiny field of view": (volume[tiny], lambda thick: thick),
        "already interpolated": (volume, interpolated),
        "zero-filled": (volume, zero_filled),
        "odd slices darker": (volume, lambda thick: odd_even(thick, 0.1)),
        "spikes": (volume, lambda thick: spikes(thick, rng, 0.1)),
        "bias": (bias(volume, 0.6), lambda thick: thick),
        "metal": (metal(volume, 8), lambda thick: thick),
        "wrapped around": (wrapped(volume, 0.15), lambda thick: thick),
    }


def interpolated(thick: np.ndarray) -> np.ndarray:
    """Reduce the in-plane resolution and interpolate back, as scanners and archives do."""
    low = torch.nn.functional.interpolate(torch.from_numpy(thick).permute(2, 0, 1)[None], scale_factor=0.5, mode="area")
    high = torch.nn.functional.interpolate(low, size=thick.shape[:2], mode="bicubic")
    return high[0].permute(1, 2, 0).numpy()


def measure(
    path: Path, axis: int, scale_factor: float, size: int | None, seed: int, ids: dict[str, Any]
) -> tuple[list[dict], dict]:
    """Run all cases; return the rows and the pictures."""
    source = read_nifti(path)
    volume = np.moveaxis(source.array, axis, 2)
    if size:
        volume = volume[middle(volume.shape, size)]
    grid = SliceGrid.under_slab(volume.shape[2], scale_factor)
    volume = np.ascontiguousarray(volume[..., : grid.n_thin])
    affine = source.affine_ras[:, [*[a for a in range(3) if a != axis], axis, 3]]
    ids = {
        "slice_profile": PROFILE, "scale_factor": scale_factor, "self_check": True, "error_map": True,
        "output_dtype": "float32", **ids,
    }  # fmt: skip
    rows, pictures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for number, (name, (truth, spoil)) in enumerate(cases(volume, seed).items()):
            thick, thick_affine = thicken(truth, affine, scale_factor=scale_factor, thick_axis=2, profile=PROFILE)
            thick = spoil(thick).astype(np.float32)
            image = nib.Nifti1Image(thick, thick_affine)
            target = Path(folder) / "in" / f"case{number}.nii.gz"
            target.parent.mkdir(exist_ok=True)
            nib.save(image, target)
            made[target.name.removesuffix(".nii.gz")] = (name, truth.astype(np.float32), thick)
        run_bundle(["inference.json"], dataset_dir=Path(folder) / "in", output_dir=Path(folder) / "out", **ids)
        for case, (name, truth, thick) in made.items():
            found = np.asarray(nib.load(Path(folder) / "out" / f"{case}_sr.nii.gz").dataobj, np.float32)
            half_width = np.asarray(nib.load(Path(folder) / "out" / f"{case}_error.nii.gz").dataobj, np.float32)
            quality = json.loads((Path(folder) / "out" / f"{case}_quality.json").read_text())
            cubic, consistent = cubic_results(thick, scale_factor, ids["slice_profile"])
            data_range = float(truth.max() - truth.min())
            scores = [psnr(result, truth, data_range) for result in (cubic, consistent, found)]
            tissue = foreground(truth)
            rows.append(
                {
                    "case": name,
                    "cubic_db": scores[0],
                    "consistent_cubic_db": scores[1],
                    "ours_db": scores[2],
                    "gain_db": scores[2] - scores[0],
                    "gain_over_consistent_db": scores[2] - scores[1],
                    "gain_in_tissue_over_consistent_db": gain_in_tissue_db(found, consistent, truth, thick),
                    "predicted_gain_over_consistent_db": (
                        None if quality["withheld"] else quality["numbers"]["gain_over_consistent_cubic_db"]["value"]
                    ),
                    "flags": quality["flags"],
                    "result": quality["result"],
                    "covered": float((np.abs(found - truth) <= half_width)[tissue].mean()),
                }
            )
            row = truth.shape[1] // 2
            nearest = thick[..., grid.nearest_slices]
            pictures[name] = [v[:, row].T[::-1] for v in (nearest, cubic, found, truth)]
    return rows, pictures


def draw(rows: list[dict], pictures: dict[str, list[np.ndarray]], path: Path) -> None:
    """Draw one row per case, with one intensity window per row."""
    figure, axes = plt.subplots(len(rows), 4, figsize=(10, 2.4 * len(rows)), layout="constrained")
    for row, line in zip(rows, axes, strict=True):
        low, high = np.percentile(pictures[row["case"]][-1], (0.5, 99.8))
        for axis, picture, title in zip(line, pictures[row["case"]], ("thick", "cubic", "model", "truth"), strict=True):
            axis.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(
                {"cubic": f"cubic {row['cubic_db']:.1f} dB", "model": f"model {row['ours_db']:.1f} dB"}.get(
                    title, title
                ),
                fontsize=8,
            )
        line[0].set_ylabel(row["case"], fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Command line."""
    logging.basicConfig(level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", type=Path, required=True, help="one thin-slice MR volume that was never trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--axis", type=int, default=2, help="voxel axis that is made thick")
    parser.add_argument("--scale-factor", type=float, default=4)
    parser.add_argument("--size", type=int, help="only the middle so many voxels along each axis; default: all")
    parser.add_argument("--seed", type=int, default=0)
    accept_overrides(parser)
    arguments = parser.parse_args()
    ids = dict(arguments.set)
    rows, pictures = measure(
        arguments.volume, arguments.axis, arguments.scale_factor, arguments.size, arguments.seed, ids
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "failure_cases.json", rows)
    draw(rows, pictures, arguments.output / "failure_cases.png")
    for row in rows:
        predicted = row["predicted_gain_over_consistent_db"]
        print(
            f"{row['case']:22s} cubic {row['cubic_db']:5.2f}, consistent {row['consistent_cubic_db']:5.2f}, "
            f"{row['result']} {row['ours_db']:5.2f} dB ({row['gain_over_consistent_db']:+.2f}; in the tissue "
            f"{row['gain_in_tissue_over_consistent_db']:+.2f}, predicted "
            f"{'withheld' if predicted is None else f'{predicted:+.2f}'}); covered {100 * row['covered']:.0f} %; "
            f"{', '.join(row['flags']) or 'no flag'}"
        )


if __name__ == "__main__":
    main()
