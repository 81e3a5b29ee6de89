# SPDX-License-Identifier: Apache-2.0
"""Real thick stacks judged by another plane of the same session, which shows sharply what they do not.

The part of ``--stack`` that ``--reference`` shows is super-resolved, brought to the voxels of the reference by the
affines and a rigid registration (of the cubic result, so that no method has an advantage), averaged over the thickness
of the reference's slices, and correlated with what the reference shows, by band of frequencies across the slices of the
stack. A band is counted in Nyquist frequencies of those slices: beyond 1 lies what thick slices cannot sample.

The ceiling is what the two acquisitions agree on where both are sharp: the same bands along the third axis, with both
smoothed across the stack's slices. Writes ``orthogonal.json`` and ``orthogonal.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scripts.data.cases import read_case
from scripts.degradation import SliceProfileOperator
from scripts.evaluation.metrics import foreground
from scripts.files import write_json
from scripts.fusion.registration import register_rigid
from scripts.fusion.resampling import Interpolated, grid_voxels
from scripts.geometry import SliceGrid, find_thick_axis, voxel_spacing_mm

from studies.cubic import cubic_results
from tools.run_bundle import accept_overrides, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt

MARGIN_MM = 8.0  # of the stack around what the reference shows


def crop_to(volume: np.ndarray, affine: np.ndarray, axis: int, other: np.ndarray, other_affine: np.ndarray) -> Any:
    """The part of a stack, with all its slices, that holds the box of another grid; and its affine."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*np.array(other.shape) - 1, 1]
    places = (np.linalg.inv(affine) @ other_affine @ corners.T)[:3]
    margin = MARGIN_MM / voxel_spacing_mm(affine)
    cut = []
    for a in range(3):
        low, high = int(places[a].min() - margin[a]), int(places[a].max() + margin[a]) + 1
        cut.append(slice(None) if a == axis else slice(max(0, low), max(0, high)))
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in cut]
    return volume[tuple(cut)], moved


def bands(found: np.ndarray, seen: np.ndarray, axis: int, spacing_mm: float, limits: np.ndarray) -> list[float | None]:
    """Correlation of two volumes along one axis in each band between two limits, cycles per mm.

    Lines are taken without their means and in a Hann window; ``None`` where a band holds no frequency of the grid.
    """
    lines = [np.moveaxis(v, axis, -1) for v in (found, seen)]
    window = np.hanning(lines[0].shape[-1])
    A, B = (np.fft.rfft((line - line.mean(axis=-1, keepdims=True)) * window) for line in lines)
    frequency = np.fft.rfftfreq(lines[0].shape[-1], spacing_mm)
    result: list[float | None] = []
    for low, high in pairwise(limits):
        band = (frequency > low) & (frequency <= high)
        a, b = A[..., band], B[..., band]
        norm = float(np.sqrt(np.square(np.abs(a)).sum() * np.square(np.abs(b)).sum()))
        result.append(float((a * b.conj()).real.sum()) / norm if band.any() and norm > 0 else None)
    return result


def common_box(known: np.ndarray, axis: int) -> tuple[slice, ...]:
    """A box of voxels that are all known: the range along ``axis`` and the others that most voxels share."""
    cut = [slice(None)] * 3
    for _ in range(2):
        for a in (axis, *(b for b in range(3) if b != axis)):
            share = known[tuple(cut)].mean(axis=tuple(b for b in range(3) if b != a))
            good = np.flatnonzero(share >= 0.98 * share.max())
            start = cut[a].start or 0
            cut[a] = slice(start + int(good[0]), start + int(good[-1]) + 1)
    return tuple(cut)


def measure(stack: Path, reference: Path, limits: list[float], ids: dict[str, Any], picture: Path) -> dict[str, Any]:
    """Super-resolve, register, correlate, draw."""
    (_, thick), (_, other) = read_case(stack), read_case(reference)
    axis, other_axis = find_thick_axis(thick.affine_ras), find_thick_axis(other.affine_ras)
    part, affine = crop_to(thick.array, thick.affine_ras, axis, other.array, other.affine_ras)
    with tempfile.TemporaryDirectory() as folder:
        nib.save(nib.Nifti1Image(part, affine), Path(folder) / "stack.nii.gz")
        run_bundle(
            ["inference.json"], dataset_dir=Path(folder) / "stack.nii.gz", output_dir=folder,
            **{"slice_profile": "box", "output_dtype": "float32", **ids},
        )  # fmt: skip
        image = nib.load(Path(folder) / "stack_sr.nii.gz")
        ours, thin_affine = np.asarray(image.dataobj, np.float32), np.asarray(image.affine)
    factor = float(voxel_spacing_mm(affine)[axis] / voxel_spacing_mm(thin_affine)[axis])
    turned = cubic_results(np.moveaxis(part, axis, 2), round(factor, 5), str(ids.get("slice_profile", "box")))
    cubic, consistent = (np.moveaxis(v, 2, axis) for v in turned)
    volumes = {"cubic": cubic, "cubic + data consistency": consistent, "ours": ours}

    found = register_rigid(cubic, thin_affine, other.array, other.affine_ras, other_axis)
    # the reference's thin grid: its slices are averages over it
    fine = SliceProfileOperator(SliceGrid.over_slab(other.array.shape[other_axis], 5), "box")
    fine_affine = fine.grid.thin_affine(other.affine_ras, other_axis)
    shape = list(other.array.shape)
    shape[other_axis] = fine.grid.n_thin
    voxels = grid_voxels(shape)
    shown = {}
    for name, volume in volumes.items():
        values, inside = Interpolated(volume, thin_affine).at(voxels, found.matrix @ fine_affine)
        slab = fine.degrade(torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, other_axis, -1))))
        shown[name] = np.moveaxis(slab.numpy(), -1, other_axis)
    lines = np.moveaxis(inside, other_axis, -1)
    known = np.moveaxis(np.asarray(lines.reshape(*lines.shape[:-1], -1, 5).all(-1)), -1, other_axis)
    box = common_box(known, other_axis)
    shown = {name: volume[box] for name, volume in shown.items()}
    seen = other.array[box]

    spacing = voxel_spacing_mm(other.affine_ras)
    directions = np.abs(other.affine_ras[:3, :3] / spacing).T @ np.abs(
        affine[:3, axis] / voxel_spacing_mm(affine)[axis]
    )
    directions[other_axis] = -1
    across = int(directions.argmax())
    third = next(a for a in range(3) if a not in (across, other_axis))
    nyquist = 1 / (2 * float(voxel_spacing_mm(affine)[axis]))
    cycles = np.array(limits) * nyquist
    sigma = 1 / (2 * np.pi * nyquist) * 2 / spacing[across]  # leaves little beyond half the Nyquist frequency
    smooth = [gaussian_filter1d(v, sigma, axis=across) for v in (shown["cubic"], seen)]
    result = {
        "limits_of_nyquist": limits,
        "limits_cycles_per_mm": cycles.tolist(),
        "voxels": list(seen.shape),
        "registration": {k: v for k, v in asdict(found).items() if k != "matrix"},
        "correlation": {
            name: bands(volume, seen, across, float(spacing[across]), cycles) for name, volume in shown.items()
        },
        "ceiling": bands(smooth[0], smooth[1], third, float(spacing[third]), cycles),
    }
    draw(picture, shown, seen, other_axis, across, spacing, result)
    return result


def draw(
    path: Path,
    shown: dict[str, np.ndarray],
    seen: np.ndarray,
    plane: int,
    across: int,
    spacing: np.ndarray,
    result: Any,
) -> None:
    """The reference's slice with most tissue as each method shows it, and the correlations."""
    counts = foreground(seen).sum(axis=tuple(a for a in range(3) if a != plane))
    index = int(counts.argmax())
    columns = next(a for a in range(3) if a not in (plane, across))
    figure, axes = plt.subplots(1, len(shown) + 2, figsize=(3.2 * (len(shown) + 2), 3.2), layout="constrained")
    for axis, (name, volume) in zip(axes, [*shown.items(), ("acquired in the other plane", seen)], strict=False):
        picture = volume.take(index, plane)
        picture = picture if across < columns else picture.T
        low, high = np.percentile(volume, [0.5, 99.7])
        axis.imshow(picture, cmap="gray", vmin=low, vmax=high, aspect=spacing[across] / spacing[columns])
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=9)
    middle = (np.array(result["limits_of_nyquist"])[1:] + np.array(result["limits_of_nyquist"])[:-1]) / 2
    for name, values in [*result["correlation"].items(), ("both sharp (ceiling)", result["ceiling"])]:
        axes[-1].plot(middle, [np.nan if v is None else v for v in values], "o-", ms=3, label=name)
    axes[-1].axvline(1, color="k", lw=0.5, ls=":")
    axes[-1].set_xlabel("frequency, Nyquist of the thick slices")
    axes[-1].set_ylabel("correlation")
    axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", type=Path, required=True, help="the thick stack that is super-resolved")
    parser.add_argument("--reference", type=Path, required=True, help="a stack of the same session in another plane")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limits", type=float, nargs="+", default=[0.25, 0.5, 1, 1.5, 2, 3, 4])
    accept_overrides(parser)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = measure(
        arguments.stack, arguments.reference, arguments.limits, dict(arguments.set),
        arguments.output / "orthogonal.png",
    )  # fmt: skip
    write_json(arguments.output / "orthogonal.json", result)
    moved = result["registration"]
    print(
        f"moved by {moved['shift_mm']:.2f} mm and {moved['rotation_degrees']:.2f} degrees, correlation "
        f"{moved['correlation_before']:.3f} -> {moved['correlation']:.3f}; {result['voxels']} voxels"
    )
    names = [f"{low:g}-{high:g}" for low, high in pairwise(arguments.limits)]
    print("| Nyquist frequencies | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for name, values in [*result["correlation"].items(), ("ceiling", result["ceiling"])]:
        print(f"| {name} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")


if __name__ == "__main__":
    main()
