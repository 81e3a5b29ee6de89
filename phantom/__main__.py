# SPDX-License-Identifier: Apache-2.0
"""Make folders of made-up patients: ``python -m phantom --output DIR --patients N --size small``."""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from scripts.transforms.degrade import thicken
from tqdm import tqdm

from .patient import MR_CONTRASTS, make_patient

SIZES = {"small": ((72, 80, 72), (1.4, 1.4, 1.4)), "full": ((176, 208, 176), (1.0, 1.0, 1.0))}


def main() -> None:
    """Write ``ct/``, ``mr/`` (thick) and ``mr_hr/`` (the truth), one NIfTI file per patient in each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0, help="of the first patient; the next ones count on")
    parser.add_argument("--scale-factor", type=float, default=4, help="thin slices per thick one")
    parser.add_argument("--contrast", choices=MR_CONTRASTS, help="of every patient's MR; else they take turns")
    arguments = parser.parse_args()
    shape, spacing = SIZES[arguments.size]
    seeds = range(arguments.seed, arguments.seed + arguments.patients)
    for seed in tqdm(seeds, desc="patients", unit="patient", disable=None):
        contrast = arguments.contrast or MR_CONTRASTS[seed % len(MR_CONTRASTS)]
        patient = make_patient(seed, shape, spacing, contrast, angles_degrees=(6.0, -4.0, 3.0))
        thick, thick_affine = thicken(patient.mr, patient.affine_ras, scale_factor=arguments.scale_factor, thick_axis=2)
        images = {
            "ct": (np.rint(patient.ct), patient.affine_ras),
            "mr_hr": (np.rint(patient.mr), patient.affine_ras),
            "mr": (np.rint(thick), thick_affine),
        }
        for name, (array, affine) in images.items():
            folder = arguments.output / name
            folder.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array.astype(np.int16), affine), folder / f"phantom{seed:03d}.nii.gz")


if __name__ == "__main__":
    main()
