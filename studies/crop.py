# SPDX-License-Identifier: Apache-2.0
"""Crop every volume of a folder to its middle, for tables that must be quick.

python -m studies.crop --hr <folder of NIfTI> --side 96 --output <folder>
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
from scripts.data.cases import find_cases

__all__ = ["crop", "middle"]


def middle(shape: Sequence[int], size: int) -> tuple[slice, ...]:
    """The middle ``size`` voxels along every axis, or all where there are fewer."""
    return tuple(slice(max(0, length // 2 - size // 2), length // 2 + size // 2) for length in shape)


def crop(image: nib.Nifti1Image, side: int) -> nib.Nifti1Image:
    """Crop to at most ``side`` voxels along every axis around the middle; the affine is adjusted."""
    starts = [max(0, (length - side) // 2) for length in image.shape[:3]]
    return image.slicer[tuple(slice(start, start + side) for start in starts)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--side", type=int, default=96, help="voxels")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for item in find_cases(arguments.hr).items:
        nib.save(crop(nib.load(item["image"]), arguments.side), arguments.output / f"{item['case']}.nii.gz")


if __name__ == "__main__":
    main()
