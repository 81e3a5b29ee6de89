# SPDX-License-Identifier: Apache-2.0
"""Judge real thick stacks by another plane of the same session, which is sharp where the stack is not.

The part of ``--stack`` that ``--reference`` also shows is super-resolved. It is resampled to the voxels of the
reference by the affines and a rigid registration (of the cubic result, so that no method has an advantage) and averaged
over the thickness of the slices of the reference. It is then correlated with the reference, separately for bands of
frequencies across the slices of the stack, which may be oblique to the reference. The unit of the bands is the Nyquist
frequency of these slices; thick slices cannot sample frequencies above 1.

The ceiling is the agreement of the two acquisitions where both are sharp: the correlation in the same bands within the
slices of the stack, for components that vary across the slices by less than half their Nyquist frequency. Writes
``orthogonal.json`` and ``orthogonal.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects
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

MARGIN_MM = 8.0  # of the stack around the part that the reference shows
FINE = 5  # number of samples over the thickness of a slice of the reference
ACQUIRED = "acquired in the other plane"


def crop_to(volume: np.ndarray, affine: np.ndarray, axis: int, other: np.ndarray, other_affine: np.ndarray) -> Any:
    """The part of a stack, with all its slices, that contains the box of another grid, and the affine of this part."""
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


def shown_in(
    volume: np.ndarray, affine: np.ndarray, shape: Sequence[int], other_affine: np.ndarray, plane: int
) -> tuple[np.ndarray, np.ndarray]:
    """A volume as the thick slices of another grid show it, and a mask of the voxels that lie completely in the volume.

    Args:
        volume: ``(I, J, K)`` thin slices.
        affine: ``(4, 4)`` RAS affine of the volume.
        shape: shape of the other grid.
        other_affine: ``(4, 4)`` RAS affine of the other grid, multiplied by a movement of the patient if there is one.
        plane: voxel axis of the other grid along which its slices are stacked.

    Returns:
        Float32 values and a mask, both with the shape of the other grid.
    """
    fine = SliceProfileOperator(SliceGrid.over_slab(shape[plane], FINE), "box")
    fine_shape = [*shape]
    fine_shape[plane] = fine.grid.n_thin
    fine_affine = fine.grid.thin_affine(other_affine, plane)
    values, inside = Interpolated(volume, affine).at(grid_voxels(fine_shape), fine_affine)
    slab = fine.degrade(torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, plane, -1))))
    lines = np.moveaxis(inside, plane, -1)
    known = np.asarray(lines.reshape(*lines.shape[:-1], -1, FINE).all(-1))
    return np.moveaxis(slab.numpy(), -1, plane), np.moveaxis(known, -1, plane)


def taper(known: np.ndarray, plane: int, spacing_mm: np.ndarray) -> np.ndarray:
    """A window over the known part of each slice, for any outline: 0 outside, and 1 farthest from the edge.

    For a strip, it is the Hann window across the strip.
    """
    rest = [spacing_mm[a] for a in range(3) if a != plane]
    windows = []
    for mask in np.moveaxis(known, plane, 0):
        depth = distance_transform_edt(np.pad(mask, 1), sampling=rest)[1:-1, 1:-1]
        windows.append(np.sin(np.pi / 2 * depth / max(depth.max(), 1e-6)) ** 2)
    return np.moveaxis(np.array(windows), 0, plane)


def bands(
    found: np.ndarray,
    seen: np.ndarray,
    window: np.ndarray,
    plane: int,
    cycles: Sequence[np.ndarray],
    limits: np.ndarray,
    other_at_most: float = np.inf,
) -> list[float | None]:
    """Correlation of the slices of two volumes in each band of frequencies along one direction.

    Args:
        found: ``(I, J, K)``.
        seen: same shape.
        window: same shape; see :func:`taper`. The means of both volumes within the window are subtracted.
        plane: voxel axis of the slices.
        cycles: frequency of every coefficient of a slice's Fourier transform along the direction, and across it, as
            :func:`frequencies` gives them.
        limits: limits of the bands in cycles per mm.
        other_at_most: highest frequency across the direction; coefficients above it are left out.

    Returns:
        A correlation per band, or ``None`` for a band without any frequency.
    """

    def spectra(volume: np.ndarray) -> np.ndarray:
        slices, weights = (np.moveaxis(v, plane, 0).astype(np.float64) for v in (volume, window))
        total = np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1e-6)
        return np.fft.fft2((slices - (slices * weights).sum(axis=(1, 2), keepdims=True) / total) * weights)

    A, B = spectra(found), spectra(seen)
    along, across = cycles
    result: list[float | None] = []
    for low, high in pairwise(limits):
        band = (along > low) & (along <= high) & (across <= other_at_most)
        a, b = A[:, band], B[:, band]
        norm = float(np.sqrt(np.square(np.abs(a)).sum() * np.square(np.abs(b)).sum()))
        result.append(float((a * b.conj()).real.sum()) / norm if band.any() and norm > 0 else None)
    return result


def frequencies(
    shape: Sequence[int], affine: np.ndarray, plane: int, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Frequency of every coefficient of a slice's 2D Fourier transform along a direction of the patient, and across it.

    The slices may be oblique to the direction. Only the component of the direction in their plane counts, because the
    slices show no other frequencies.

    Args:
        shape: shape of the volume.
        affine: ``(4, 4)`` RAS affine of the volume.
        plane: voxel axis of the slices.
        direction: ``(3,)`` unit vector, mm.

    Returns:
        Two arrays with the shape of a slice, in cycles per mm, >= 0.
    """
    axes = [a for a in range(3) if a != plane]
    spacing = voxel_spacing_mm(affine)
    units = [affine[:3, a] / spacing[a] for a in axes]
    own = [np.fft.fftfreq(shape[a], spacing[a]) for a in axes]
    first, second = np.meshgrid(*own, indexing="ij")
    parts = np.array([unit @ direction for unit in units])
    parts /= np.linalg.norm(parts)
    return np.abs(parts[0] * first + parts[1] * second), np.abs(parts[0] * second - parts[1] * first)


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
    shown = {}
    for name, volume in volumes.items():
        shown[name], known = shown_in(
            volume, thin_affine, other.array.shape, found.matrix @ other.affine_ras, other_axis
        )
    if not known.any():
        raise SystemExit("--reference must show a part of --stack, got none; take two planes of one session")

    spacing = voxel_spacing_mm(other.affine_ras)
    normal = affine[:3, axis] / voxel_spacing_mm(affine)[axis]
    cycles = frequencies(other.array.shape, other.affine_ras, other_axis, found.matrix[:3, :3].T @ normal)
    window = taper(known, other_axis, spacing)
    nyquist = 1 / (2 * float(voxel_spacing_mm(affine)[axis]))
    edges = np.array(limits) * nyquist
    result = {
        "limits_of_nyquist": limits,
        "limits_cycles_per_mm": edges.tolist(),
        "voxels": int(known.sum()),
        "registration": {k: v for k, v in asdict(found).items() if k != "matrix"},
        "correlation": {
            name: bands(volume, other.array, window, other_axis, cycles, edges) for name, volume in shown.items()
        },
        "ceiling": bands(
            shown["cubic"], other.array, window, other_axis, cycles[::-1], edges, other_at_most=nyquist / 2
        ),
    }
    box = find_objects(known.astype(int))[0]
    cut = {name: np.where(known, volume, 0)[box] for name, volume in {**shown, ACQUIRED: other.array}.items()}
    draw(picture, cut, known[box], other_axis, other.affine_ras, normal, result)
    return result


def draw(
    path: Path,
    shown: dict[str, np.ndarray],
    known: np.ndarray,
    plane: int,
    affine: np.ndarray,
    normal: np.ndarray,
    result: Any,
) -> None:
    """Draw the correlations, and the slice with most tissue as each method and the reference show it."""
    spacing = voxel_spacing_mm(affine)
    rows, columns = sorted((a for a in range(3) if a != plane), key=lambda a: -abs(affine[:3, a] @ normal) / spacing[a])
    counts = (foreground(shown[ACQUIRED]) & known).sum(axis=(rows, columns))
    index = int(counts.argmax())
    figure, axes = plt.subplots(1, len(shown) + 1, figsize=(3.2 * (len(shown) + 1), 3.2), layout="constrained")
    for axis, (name, volume) in zip(axes, shown.items(), strict=False):
        picture = volume.take(index, plane)
        picture = picture if rows < columns else picture.T
        low, high = np.percentile(volume[known], [0.5, 99.7])
        axis.imshow(picture, cmap="gray", vmin=low, vmax=high, aspect=spacing[rows] / spacing[columns])
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
        f"{moved['similarity_before']:.3f} -> {moved['similarity']:.3f}; {result['voxels']} voxels known in both"
    )
    names = [f"{low:g}-{high:g}" for low, high in pairwise(arguments.limits)]
    print("| Nyquist frequencies | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for name, values in [*result["correlation"].items(), ("ceiling", result["ceiling"])]:
        print(f"| {name} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")


if __name__ == "__main__":
    main()
