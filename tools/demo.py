# SPDX-License-Identifier: Apache-2.0
"""Super-resolve the made-up patient, or a scan of your own, and show the result."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from scripts.data.cases import find_cases, read_case
from scripts.evaluation.metrics import score_volume
from scripts.geometry import Orientation, SliceGrid, find_thick_axis, voxel_spacing_mm
from scripts.networks.interpolation import interpolate_cubic
from scripts.reasons import CaseError
from scripts.transforms.degrade import thicken

from phantom.dicom import write_series
from phantom.patient import make_patient
from tools.run_bundle import run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt

PHANTOM_FACTOR = 4  # thin slices per thick one of the made-up patient
PHANTOM_PROFILE = "gaussian"  # slice profile with which the made-up patient is scanned; the bundle is told so


def phantom_scan(folder: Path, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Write the made-up patient as a tilted 4 mm DICOM series; returns the thin truth, same slab."""
    patient = make_patient(seed, shape, angles_degrees=(12.0, -7.0, 5.0))
    thick, affine = thicken(
        patient.mr, patient.affine_ras, scale_factor=PHANTOM_FACTOR, thick_axis=2, profile=PHANTOM_PROFILE
    )
    # columns run to the patient's left and rows to the back; any other choice would do
    write_series(folder, thick, affine, seed=seed)
    return patient.mr


def describe(name: str, array: np.ndarray, affine: np.ndarray) -> str:
    """One line with name, shape and spacing."""
    shape, spacing = " x ".join(map(str, array.shape)), " x ".join(f"{s:.3g}" for s in voxel_spacing_mm(affine))
    return f"  {name:<8}{shape:<18}voxels   {spacing} mm"


def picture(volumes: dict[str, np.ndarray], spacing_mm: np.ndarray, path: Path, title: str) -> None:
    """Draw three planes, with one column per volume and one window for all.

    Args:
        volumes: name to ``(H1, H2, n)`` on one grid, thick axis last.
        spacing_mm: ``(3,)`` of that grid.
        path: path of the PNG.
        title: title of the picture.
    """
    reference = next(reversed(volumes.values()))
    low, high = np.percentile(reference, (0.5, 99.7))
    places = [int(0.42 * n) for n in reference.shape]  # off the midline, which shows little
    planes = {"through the slices": (0, 1, 2), "through the slices, turned": (1, 0, 2), "in a slice": (2, 0, 1)}
    figure, axes = plt.subplots(3, len(volumes), figsize=(3.4 * len(volumes), 9), layout="constrained", squeeze=False)
    for name, axis in zip(volumes, axes[0], strict=True):
        axis.set_title(name, fontsize=11)
    for line, (plane, (across, first, second)) in zip(axes, planes.items(), strict=True):
        for axis, volume in zip(line, volumes.values(), strict=True):
            axis.imshow(
                volume.take(places[across], across).T[::-1], cmap="gray", vmin=low, vmax=high, interpolation="nearest",
                aspect=spacing_mm[second] / spacing_mm[first],
            )  # fmt: skip
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(plane, fontsize=10)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def show(name: str, source: object, output: Path, seconds: float, truth: np.ndarray | None) -> None:
    """Print the table of one case and draw its picture beside the result."""
    _, scan = read_case(source)
    result = nib.load(output / f"{name}_sr.nii.gz")
    thin = np.asarray(result.dataobj, dtype=np.float32)
    thick_axis = find_thick_axis(scan.affine_ras)
    factor = voxel_spacing_mm(scan.affine_ras)[thick_axis] / voxel_spacing_mm(result.affine)[thick_axis]
    grid = SliceGrid.over_slab(scan.array.shape[thick_axis], round(float(factor), 4))
    expected = grid.thin_affine(scan.affine_ras, thick_axis)
    if thin.shape[thick_axis] != grid.n_thin or not np.allclose(result.affine, expected, atol=1e-2):
        raise SystemExit(f"{name}: the result must cover the scan's slab; report this with the case's shape")
    print(describe("before", scan.array, scan.affine_ras))
    print(describe("after", thin, result.affine) + f"   {seconds:.0f} s")
    orientation = Orientation.of(scan.affine_ras, thick_axis)
    before, ours = (orientation.apply(torch.from_numpy(a)[None])[0] for a in (scan.array, thin))
    cubic = interpolate_cubic(before, grid.positions_tensor()).numpy()
    volumes = {"acquired": before.numpy()[..., grid.nearest_slices], "cubic": cubic, "this model": ours.numpy()}
    if truth is not None:
        # the series has the axes of the phantom, so the truth is already on the grid of the result
        volumes["truth"] = orientation.apply(torch.from_numpy(truth)[None])[0].numpy()
        print("\n  against the truth    PSNR, dB    SSIM")
        for label in ("cubic", "this model"):
            scores = score_volume(volumes[label], volumes["truth"], thick_axis=2)
            print(f"  {label:<20}{scores['psnr']:>9.2f}{scores['ssim']:>9.3f}")
    path = output / ("demo.png" if truth is not None else f"{name}.png")
    spacing = voxel_spacing_mm(result.affine)[list(orientation.axes)]
    picture(volumes, spacing, path, f"{scan.array.shape[thick_axis]} slices become {thin.shape[thick_axis]}")
    print(f"\n  {output / name}_sr.nii.gz\n  {path}")


def main() -> None:
    """Make or take a scan, super-resolve it as any user would, and show the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, help="NIfTI file, DICOM series, or a folder of either")
    parser.add_argument("--output", type=Path, default=Path("out/demo"))
    parser.add_argument(
        "--shape", type=int, nargs=3, default=(160, 192, 144), help="of the made-up patient, thin voxels"
    )
    parser.add_argument("--seed", type=int, default=7, help="of the made-up patient")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    ids: dict[str, Any] = {}
    truth, location = None, arguments.input
    if location is None:
        ids = {"slice_profile": PHANTOM_PROFILE, "scale_factor": PHANTOM_FACTOR}
        location = output / "dicom"
        shutil.rmtree(location, ignore_errors=True)
        print("making a patient ...", flush=True)
        truth = phantom_scan(location, tuple(arguments.shape), arguments.seed)
    cases = find_cases(location)
    started = time.perf_counter()
    code = 0
    try:
        run_bundle(["inference.json"], dataset_dir=Path(location).resolve(), output_dir=output, **ids)
    except SystemExit as error:  # the bundle has printed the reason
        code = int(error.code or 0)
    seconds = (time.perf_counter() - started) / max(1, len(cases.items))
    for item in cases.items:
        name = str(item["case"])
        if (output / f"{name}_sr.nii.gz").is_file():
            print(f"\n{name}")
            try:
                show(name, item["image"], output, seconds, truth)
            except CaseError as error:
                print(f"{name}: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
