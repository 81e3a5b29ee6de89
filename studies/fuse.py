# SPDX-License-Identifier: Apache-2.0
"""The benefit of fusion, measured against the truth: three stacks of one volume against the best single stack.

Each thin-slice volume is made thick along each of its axes. Between the stacks, the patient moves by up to
``--degrees`` and ``--shift-mm``. The study takes the part of the volume that every stack shows, or its middle
(``--size``). Every stack is super-resolved alone, and all are fused. PSNR is computed over this part, without a border
of 8 voxels. The result of a single stack is compared with the truth at the position of this stack. Writes
``fuse.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation
from scripts.data.cases import find_cases, read_case
from scripts.evaluation.metrics import psnr
from scripts.files import write_json
from scripts.fusion.resampling import Interpolated, grid_voxels
from scripts.transforms.degrade import thicken

from tools.run_bundle import accept_overrides, run_bundle

BORDER = 8


def movement(rng: np.random.Generator, degrees: float, shift_mm: float, centre: np.ndarray) -> np.ndarray:
    """A random rigid ``(4, 4)`` matrix in mm that rotates about a centre."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + rng.uniform(-shift_mm, shift_mm, 3)
    return matrix


def largest_middle(
    shape: Sequence[int], affine: np.ndarray, movements: Sequence[np.ndarray], size: int | None, multiple: int
) -> tuple[list[int], list[int]]:
    """The largest box in the middle of a volume that stays inside it under every movement.

    Args:
        shape: shape of the volume.
        affine: ``(4, 4)`` RAS affine of the volume.
        movements: rigid ``(4, 4)`` matrices in mm.
        size: largest number of voxels along each axis; ``None`` for no limit.
        multiple: number that divides the length along each axis.

    Returns:
        First voxel and number of voxels along each axis.
    """
    volume = np.array(shape)
    lengths = np.minimum(volume, size or volume) // multiple * multiple
    steps = np.array([np.linalg.inv(affine) @ moved @ affine for moved in movements])
    while (lengths > 0).all():
        start = (volume - lengths) // 2
        corners = np.array([[*c, 1] for c in product(*zip(start, start + lengths - 1, strict=True))]).T
        places = (steps @ corners)[:, :3]
        beyond = np.maximum(-places, places - (volume - 1)[:, None]).max(axis=(0, 2))
        if beyond.max() <= 1e-6:
            return start.tolist(), lengths.tolist()
        lengths[(beyond / volume).argmax()] -= multiple
    raise SystemExit(f"the volume must be larger than the movement, got {tuple(shape)} voxels; lower --degrees")


def measure(
    source: object, size: int | None, factor: int, degrees: float, shift_mm: float, ids: dict[str, Any]
) -> dict[str, Any]:
    """Make the stacks of one volume, run both commands and compare their results with the truth."""
    _, volume = read_case(source)
    centre = volume.affine_ras[:3, :3] @ (np.array(volume.array.shape) / 2) + volume.affine_ras[:3, 3]
    rng = np.random.default_rng(0)
    movements = [np.eye(4), *(movement(rng, degrees, shift_mm, centre) for _ in range(2))]
    start, shape = largest_middle(volume.array.shape, volume.affine_ras, movements, size, factor)
    affine = volume.affine_ras.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    whole = Interpolated(volume.array, volume.affine_ras)
    inner = (slice(BORDER, -BORDER),) * 3
    with tempfile.TemporaryDirectory() as folder:
        stacks, shown = [], []
        for index, axis in enumerate((2, 1, 0)):
            thin, _ = whole.at(grid_voxels(shape), movements[index] @ affine)
            thick, thick_affine = thicken(thin, affine, scale_factor=factor, thick_axis=axis, profile="box")
            path = Path(folder) / "in" / f"stack{index}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(thick, thick_affine), path)
            stacks.append(str(path))
            shown.append(thin)
        ids = {"slice_profile": "box", "output_dtype": "float32", "scale_factor": factor, **ids}
        run_bundle(["inference.json"], dataset_dir=Path(folder) / "in", output_dir=Path(folder) / "single", **ids)
        run_bundle(["inference.json", "fuse.json"], stacks=stacks, output_dir=folder, **ids)
        data_range = float(np.ptp(shown[0]))

        def score(path: Path, truth: np.ndarray) -> float:
            found = np.asarray(nib.load(path).dataobj, np.float64)
            return float(psnr(found[inner], truth[inner], data_range))

        single = [score(Path(folder) / "single" / f"stack{i}_sr.nii.gz", shown[i]) for i in range(3)]
        fused = score(Path(folder) / "fused.nii.gz", shown[0])
        report = json.loads((Path(folder) / "fused.json").read_text())
    return {"voxels": shape, "single_db": single, "fused_db": fused, "gain_db": fused - max(single), "report": report}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="thin-slice MR volumes that were never trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=int, help="voxels along each axis of the middle that is taken; all by default")
    parser.add_argument("--scale-factor", type=int, default=4)
    parser.add_argument("--degrees", type=float, default=2, help="largest rotation about each axis")
    parser.add_argument("--shift-mm", type=float, default=2, help="largest shift along each axis")
    accept_overrides(parser)
    arguments = parser.parse_args()
    results = {}
    for item in find_cases(arguments.data).items:
        found = measure(
            item["image"], arguments.size, arguments.scale_factor, arguments.degrees, arguments.shift_mm,
            dict(arguments.set),
        )  # fmt: skip
        results[str(item["case"])] = found
        alone = ", ".join(f"{value:.2f}" for value in found["single_db"])
        print(f"{item['case']}, {found['voxels']} voxels: alone {alone} dB, fused {found['fused_db']:.2f} dB")
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "fuse.json", results)


if __name__ == "__main__":
    main()
