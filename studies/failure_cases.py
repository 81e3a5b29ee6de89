# SPDX-License-Identifier: Apache-2.0
"""Scans that the model is not for: what it makes of them, in numbers and one picture.

Each case is a known thin-slice volume, spoilt, made thick and super-resolved as any user would. Writes
``failure_cases.json`` and ``failure_cases.png``: thick, cubic, the model, the truth.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from scripts.evaluation.metrics import psnr
from scripts.files import write_json
from scripts.geometry import SliceGrid
from scripts.networks.interpolation import interpolate_cubic
from scripts.nifti import read_nifti
from scripts.transforms.degrade import thicken

from tools.run_bundle import accept_overrides, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt

PROFILE = "gaussian"  # how the scans are made, and the bundle is told so


def checkerboard(shape: tuple[int, int, int]) -> np.ndarray:
    """No anatomy: bars and squares of every period along the thick axis, from 2 thin slices upwards."""
    i, j, k = np.indices(shape)
    period = 2 + 14 * i / shape[0]
    return 500 + 400 * np.sign(np.sin(2 * np.pi * k / period)) * np.where(j // 16 % 2, 1, 0.3)


def heavy_noise(volume: np.ndarray, rng: np.random.Generator, fraction: float) -> np.ndarray:
    """Rician noise of ``fraction`` of the 99th percentile."""
    sigma = fraction * np.percentile(volume, 99)
    return np.hypot(volume + rng.normal(0, sigma, volume.shape), rng.normal(0, sigma, volume.shape))


def ghosting(volume: np.ndarray, shift: int, strength: float) -> np.ndarray:
    """A periodic motion's ghosts along axis 1."""
    return volume + strength * (np.roll(volume, shift, axis=1) + np.roll(volume, -shift, axis=1))


def slice_motion(thick: np.ndarray, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """Every other slice shifted in-plane, as when the head moves between the passes of an interleaved scan."""
    moved = thick.copy()
    for k in range(1, thick.shape[2], 2):
        moved[:, :, k] = np.roll(thick[:, :, k], int(rng.integers(1, pixels + 1)), axis=0)
    return moved


def cases(volume: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
    """Truth and what happens to its thick slices, by name. The truth of a spoilt scan is the spoilt thin volume,
    except that of noise and motion, which nobody wants back.
    """
    rng = np.random.default_rng(seed)
    middle = tuple(slice(n // 2 - 20, n // 2 + 20) for n in volume.shape[:2])
    return {
        "head (as intended)": (volume, lambda thick: thick),
        "no anatomy": (checkerboard(volume.shape), lambda thick: thick),
        "heavy noise": (volume, lambda thick: heavy_noise(thick, rng, 0.15)),
        "motion ghosts": (ghosting(volume, volume.shape[1] // 6, 0.2), lambda thick: thick),
        "motion between slices": (volume, lambda thick: slice_motion(thick, rng, 4)),
        "tiny field of view": (volume[middle], lambda thick: thick),
        "already interpolated": (volume, interpolated),
    }


def interpolated(thick: np.ndarray) -> np.ndarray:
    """In-plane detail lost and interpolated back, as scanners and archives do."""
    low = torch.nn.functional.interpolate(torch.from_numpy(thick).permute(2, 0, 1)[None], scale_factor=0.5, mode="area")
    high = torch.nn.functional.interpolate(low, size=thick.shape[:2], mode="bicubic")
    return high[0].permute(1, 2, 0).numpy()


def measure(path: Path, axis: int, scale_factor: float, seed: int, ids: dict[str, Any]) -> tuple[list[dict], dict]:
    """Run all cases; returns the rows and the pictures."""
    source = read_nifti(path)
    volume = np.moveaxis(source.array, axis, 2)
    grid = SliceGrid.under_slab(volume.shape[2], scale_factor)
    volume = np.ascontiguousarray(volume[..., : grid.n_thin])
    affine = source.affine_ras[:, [*[a for a in range(3) if a != axis], axis, 3]]
    ids = {"slice_profile": PROFILE, "scale_factor": scale_factor, **ids}
    positions = torch.tensor(grid.positions, dtype=torch.float32)
    nearest_slice = grid.positions.round().astype(int).clip(0, grid.n_slices - 1)
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
            cubic = interpolate_cubic(torch.from_numpy(thick), positions).numpy()
            data_range = float(truth.max() - truth.min())
            scores = [psnr(result, truth, data_range) for result in (cubic, found)]
            rows.append({"case": name, "cubic_db": scores[0], "ours_db": scores[1], "gain_db": scores[1] - scores[0]})
            middle = truth.shape[1] // 2
            nearest = thick[..., nearest_slice]
            pictures[name] = [v[:, middle].T[::-1] for v in (nearest, cubic, found, truth)]
    return rows, pictures


def draw(rows: list[dict], pictures: dict[str, list[np.ndarray]], path: Path) -> None:
    """One row per case, one window per row."""
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
    parser.add_argument("--seed", type=int, default=0)
    accept_overrides(parser)
    arguments = parser.parse_args()
    ids = dict(arguments.set)
    rows, pictures = measure(arguments.volume, arguments.axis, arguments.scale_factor, arguments.seed, ids)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "failure_cases.json", rows)
    draw(rows, pictures, arguments.output / "failure_cases.png")
    for row in rows:
        print(
            f"{row['case']:24s} cubic {row['cubic_db']:6.2f} dB, model {row['ours_db']:6.2f} dB ({row['gain_db']:+.2f})"
        )


if __name__ == "__main__":
    main()
