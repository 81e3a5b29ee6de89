# SPDX-License-Identifier: Apache-2.0
"""Figures of the results on real thick scans, which have no truth.

* The sharpness along the thick axis relative to the sharpness in-plane, per mm, before (cubic) and after. At 1, both
  are equal.
* The difference between the scan and the result that is made thick again, compared with the noise in the scan.
* How strongly the differences between thin slices repeat every K slices, like a checkerboard, compared with cubic.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scripts.data.cases import find_cases
from scripts.evaluation.resolution import sharpness_ratio
from scripts.files import write_json
from scripts.geometry import Orientation, voxel_spacing_mm
from scripts.networks.interpolation import interpolate_cubic
from scripts.training.collapse import period_peak
from scripts.transforms.consistency import in_plane_noise_sigma, scan_operator
from scripts.transforms.intensity import ScaleMRd
from scripts.transforms.load import LoadImageVolumed
from scripts.transforms.orient import OrientThickAxisLastd

from tools.run_bundle import BUNDLE, accept_overrides, run_bundle

INFERENCE = BUNDLE / "configs" / "inference.json"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="thick-slice MR scans")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scale-factor", type=float, default=4)
    accept_overrides(parser)
    arguments = parser.parse_args()
    factor, ids = arguments.scale_factor, dict(arguments.set)
    profile = str(ids.get("slice_profile", json.loads(INFERENCE.read_text())["slice_profile"]))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run_bundle(
            ["inference.json"],
            dataset_dir=arguments.data,
            output_dir=folder,
            output_dtype="float32",
            scale_factor=factor,
            **ids,
        )
        for item in find_cases(arguments.data).items:
            loaded = LoadImageVolumed("image")({"image": item["image"], "case": item["case"]})
            data = OrientThickAxisLastd("image")(loaded)
            data["image"].meta["scale_factor"] = factor
            scan = data["image"].as_tensor().clone()
            unit = ScaleMRd("image", 0.5, 99.5)(dict(data))["image"]
            found = nib.load(Path(folder) / f"{item['case']}_sr.nii.gz")
            orientation = Orientation.of(np.asarray(found.affine), int(data["image"].meta["thick_axis"]))
            thin = orientation.apply(torch.from_numpy(np.asarray(found.dataobj, np.float32))[None])
            spacing = voxel_spacing_mm(np.asarray(found.affine))[list(orientation.axes)]
            operator = scan_operator(data["image"], profile, None)
            cubic = interpolate_cubic(scan[0], operator.grid.positions_tensor())
            value_range = float(scan.max() - scan.min())
            unit_range = 2 / (unit.meta["intensity_high"] - unit.meta["intensity_low"])
            rows.append(
                {
                    "case": item["case"],
                    "sharpness_cubic": sharpness_ratio(cubic.numpy(), spacing, 2),
                    "sharpness_ours": sharpness_ratio(thin[0].numpy(), spacing, 2),
                    "residual_of_range": float((operator.degrade(thin[0]) - scan[0]).square().mean().sqrt())
                    / value_range,
                    "noise_of_range": in_plane_noise_sigma(unit.as_tensor()) / unit_range / value_range,
                    "period_cubic": period_peak(cubic[None], factor),
                    "period_ours": period_peak(thin, factor),
                }
            )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "real_scans.json", rows)
    print(
        "| scan | sharpness: cubic | ours | residual | noise | period K: cubic | ours |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['case']} | {row['sharpness_cubic']:.2f} | {row['sharpness_ours']:.2f} "
            f"| {row['residual_of_range']:.1e} | {row['noise_of_range']:.1e} "
            f"| {row['period_cubic']:.2f} | {row['period_ours']:.2f} |"
        )


if __name__ == "__main__":
    main()
