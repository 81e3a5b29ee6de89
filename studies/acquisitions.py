# SPDX-License-Identifier: Apache-2.0
"""Measure the shipped weights on gaps, overlaps and noise: the gain over cubic interpolation, and the slices' rhythm.

Thin-slice volumes are made thick with every profile and thickness, noise is added, and they are super-resolved. The
rhythm tells whether thin slices differ more at one place between the thick slices than at another: the mean absolute
step between neighbouring thin slices is divided by that of the truth, for each of the K places, and the largest of
these ratios by the least. It is 1 where the result has no pattern of its own.

    python -m studies.acquisitions --data HR --output OUT --size 96 --set autocast=bfloat16
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scripts.data.cases import find_cases
from scripts.files import write_json
from scripts.geometry import SliceGrid, find_thick_axis, voxel_spacing_mm
from scripts.inference.predictor import Predictor
from scripts.networks.interpolation import interpolate_cubic
from scripts.transforms.degrade import DegradeVolume
from scripts.transforms.load import LoadImageVolumed

from studies.crop import middle
from tools.run_bundle import BUNDLE, accept_overrides

END_SLICES = 2  # acquired slices at each end that are left out


def rhythm(result: np.ndarray, truth: np.ndarray, scale_factor: int) -> float:
    """Largest over least ratio of the mean absolute steps of a result and of the truth, by place.

    Args:
        result: ``(H1, H2, n K)``.
        truth: same shape.
        scale_factor: whole K.
    """
    steps = [np.abs(np.diff(x, axis=2)).mean(axis=(0, 1)) for x in (result, truth)]
    ratios = [
        steps[0][place::scale_factor].mean() / steps[1][place::scale_factor].mean() for place in range(scale_factor)
    ]
    return float(max(ratios) / min(ratios))


def compare(
    volume: MetaTensor,
    axis: str,
    scale_factor: int,
    profile: str,
    thickness_to_spacing: float,
    noise: float,
    **ids: Any,
) -> dict[str, float]:
    """Degrade one volume, super-resolve it, and return ``gain_db`` over cubic interpolation and ``rhythm``.

    Args:
        volume: ``(1, I, J, K)`` thin slices.
        axis: plane of the thick slices.
        scale_factor: whole K.
        profile: slice profile.
        thickness_to_spacing: slice thickness over slice spacing.
        noise: standard deviation of the Gaussian noise that is added, as a share of the range of the thick slices.
        ids: overrides of ids of ``inference.json``.
    """
    thick, thin = DegradeVolume(scale_factor, axis, profile, thickness_to_spacing)(volume)
    slices, affine = thick.as_tensor()[0].numpy(), np.asarray(thick.affine)
    slices = slices + np.float32(noise * np.ptp(slices)) * np.random.default_rng(0).standard_normal(
        slices.shape, dtype=np.float32
    )
    thick_axis = find_thick_axis(affine, axis)
    predictor = Predictor(
        BUNDLE, scale_factor=scale_factor, slice_profile=profile, thick_axis=axis, progress=False, **ids
    )
    thickness_mm = float(voxel_spacing_mm(affine)[thick_axis]) * thickness_to_spacing
    result = predictor(slices, affine, slice_thickness_mm=thickness_mm).numpy()
    grid = SliceGrid.over_slab(slices.shape[thick_axis], scale_factor)
    along = torch.from_numpy(np.moveaxis(slices, thick_axis, 2).copy())
    end = END_SLICES * scale_factor
    cubic, found, truth = (
        x[..., end:-end]
        for x in (
            interpolate_cubic(along, grid.positions_tensor()).numpy(),
            np.moveaxis(result, thick_axis, 2),
            np.moveaxis(thin.as_tensor()[0].numpy(), thick_axis, 2),
        )
    )
    errors = [np.mean(np.square(np.float64(x) - truth)) for x in (cubic, found)]
    return {"gain_db": float(10 * np.log10(errors[0] / errors[1])), "rhythm": rhythm(found, truth, scale_factor)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="thin-slice MR volumes that were never trained on")
    parser.add_argument("--axis", default="axial", help="plane of the thick slices")
    parser.add_argument("--scale-factor", type=int, default=4, help="whole: the rhythm of the slices is counted")
    parser.add_argument("--profiles", nargs="+", default=["gaussian", "box"])
    parser.add_argument("--thicknesses", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="over the slice spacing")
    parser.add_argument("--noises", type=float, nargs="+", default=[0.0, 0.01, 0.02], help="shares of the range")
    parser.add_argument("--size", type=int, help="only the middle so many voxels along each axis")
    parser.add_argument("--output", type=Path, required=True, help="folder of acquisitions.json")
    accept_overrides(parser)
    arguments = parser.parse_args()
    rows = []
    for item in find_cases(arguments.data).items:
        volume = LoadImageVolumed("image")({"image": item["image"], "case": item["case"]})["image"]
        if arguments.size:
            volume = volume[(slice(None), *middle(volume.shape[1:], arguments.size))]
        for profile, thickness, noise in itertools.product(arguments.profiles, arguments.thicknesses, arguments.noises):
            found = compare(
                volume, arguments.axis, arguments.scale_factor, profile, thickness, noise, **dict(arguments.set)
            )
            rows.append(
                {"case": str(item["case"]), "profile": profile, "thickness_to_spacing": thickness, "noise": noise}
                | found
            )
            print(
                "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()), flush=True
            )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "acquisitions.json", rows)


if __name__ == "__main__":
    main()
