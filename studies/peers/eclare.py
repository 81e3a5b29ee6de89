# SPDX-License-Identifier: Apache-2.0
"""ECLARE, the successor of SMORE, as an external program: ``pip install eclare`` into any environment on the PATH.

The licence of the program is GPL-3. It is therefore never imported, but started as a program if the user has installed
it. Its command line (version 1.0.1) takes a NIfTI file, chooses its own grid and is told a number of training patches,
not of seconds. So its row states the processor seconds that it took, and its result is resampled to the table's grid by
linear interpolation in world coordinates if the grids differ.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform

__all__ = ["find_eclare", "run_eclare"]


def find_eclare() -> str | None:
    """Path of the program, if it is installed."""
    return shutil.which("run-eclare")


def run_eclare(
    thick: Path,
    output_dir: Path,
    thickness_to_spacing: float,
    patches: int,
    batch_size: int,
    shape: tuple[int, ...],
    affine: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Super-resolve a NIfTI file.

    Args:
        thick: the thick-slice scan.
        output_dir: folder for the program's own output.
        thickness_to_spacing: slice thickness over slice spacing.
        patches: number of patches that it learns from.
        batch_size: patches per step.
        shape: shape of the table's grid.
        affine: ``(4, 4)`` RAS affine of the table's grid.

    Returns:
        ``(I, J, K)`` float32 array on the table's grid, and the CPU-seconds of the program.

    Raises:
        FileNotFoundError: if the program is not installed.
        RuntimeError: if the program fails or leaves no result.
    """
    program = find_eclare()
    if program is None:
        raise FileNotFoundError("run-eclare is not installed; pip install eclare")
    output_dir.mkdir(parents=True, exist_ok=True)
    voxel_mm = nib.load(thick).header.get_zooms()
    thickness_pixels = thickness_to_spacing * float(max(voxel_mm)) / float(min(voxel_mm))  # FWHM of its blur kernel
    before = os.times()
    command = [program, "--in-fpath", str(thick), "--out-dir", str(output_dir)]
    command += ["--relative-slice-thickness", str(thickness_pixels)]
    command += ["--n-patches", str(patches), "--batch-size", str(batch_size)]
    code = subprocess.run(command, check=False).returncode
    after = os.times()
    found = sorted(output_dir.rglob("*_eclare.nii*"))
    if code or not found:
        raise RuntimeError(f"run-eclare must leave one result, got exit code {code} and {len(found)} files")
    image = nib.load(found[0])
    to_result = np.linalg.inv(image.affine) @ affine
    volume = np.asarray(image.dataobj, np.float32)
    placed = affine_transform(
        volume, to_result[:3, :3], to_result[:3, 3], output_shape=shape[:3], order=1, mode="nearest"
    )
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    return placed, seconds
