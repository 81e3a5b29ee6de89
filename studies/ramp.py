# SPDX-License-Identifier: Apache-2.0
"""Check that the whole inference reproduces a linear ramp in world coordinates.

Stacks with random slice spacing, target spacing, thickness and oblique, flipped orientation hold a ramp along a random
direction. The result is compared with the ramp at the world coordinates of its voxels, away from the ends.

    python -m studies.ramp --count 20
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from scripts.files import write_json
from scripts.geometry import voxel_spacing_mm
from scripts.inference.predictor import Predictor

from tools.run_bundle import BUNDLE, accept_overrides

SHAPE = (48, 48, 20)
END_SLICES = 3  # acquired slices at each end that are left out
END_VOXELS = 8  # voxels at each in-plane border that are left out


def ramp(shape: tuple[int, ...], affine: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The ramp at the voxels of a grid; ``gradient`` is in units per mm."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.asarray((index @ affine[:3, :3].T + affine[:3, 3]) @ gradient, dtype=np.float32)


def error_of_range(seed: int, **ids: Any) -> dict[str, float]:
    """Acquisition of a random stack, and the largest error of its result as a share of the range of the stack.

    Args:
        seed: seed of the stack.
        ids: overrides of ids of ``inference.json``.
    """
    rng = np.random.default_rng(seed)
    spacing_mm, row_mm = rng.uniform(2, 8), rng.uniform(0.6, 1.2)
    target_mm = rng.uniform(max(spacing_mm / 8, row_mm), spacing_mm / 1.5)
    thickness_mm = spacing_mm * rng.uniform(0.5, 1.5)
    affine = np.eye(4)
    axes = Rotation.random(random_state=rng).as_matrix() * rng.choice([-1, 1], 3)
    affine[:3, :3] = axes * (row_mm, row_mm, spacing_mm)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    gradient = rng.normal(size=3)
    thick = ramp(SHAPE, affine, gradient)
    predictor = Predictor(BUNDLE, target_spacing_mm=target_mm, progress=False, **ids)
    thin = predictor(thick, affine, slice_thickness_mm=thickness_mm)
    grid = np.asarray(thin.affine)
    end = int(np.ceil(END_SLICES * spacing_mm / voxel_spacing_mm(grid)[2]))
    inner = (slice(END_VOXELS, -END_VOXELS), slice(END_VOXELS, -END_VOXELS), slice(end, -end))
    difference = np.abs(thin.numpy() - ramp(tuple(thin.shape), grid, gradient))[inner]
    return {
        "spacing_mm": spacing_mm,
        "target_mm": target_mm,
        "thickness_mm": thickness_mm,
        "error_of_range": float(difference.max() / np.ptp(thick)),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="number of stacks")
    parser.add_argument("--output", type=Path, help="JSON file")
    accept_overrides(parser)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.count):
        rows.append(error_of_range(seed, **dict(arguments.set)))
        print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
    errors = [row["error_of_range"] for row in rows]
    print(f"largest {max(errors):.2e}, median {np.median(errors):.2e}")
    if arguments.output:
        write_json(arguments.output, rows)


if __name__ == "__main__":
    main()
