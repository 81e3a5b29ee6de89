# SPDX-License-Identifier: Apache-2.0
"""What the tests with real programs share: scans, the release, the expected result, the figures."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import ROOT, SHARED, make_affine, run_bundle, save_nifti, smooth_volume
from tests.dicom.synthetic import write_series
from tools.release import NAME, build

# only `make test-clients` runs these: they need environments of their own
only_on_demand = pytest.mark.skipif(os.environ.get("CLIENTS") != "1", reason="run by `make test-clients`")
FIGURES = ROOT / "out" / "clients" / "figures.jsonl"
REAL = SHARED / "data" / "dicom" / "mr_decub_HFS" / "In" / "HFS" / "3_t1_fl2d_sag"


def unpack_release(folder: Path) -> Path:
    """Build the zip of this checkout and unpack it; returns the bundle."""
    with zipfile.ZipFile(build(folder / "dist")) as archive:
        archive.extractall(folder / "model")
    return folder / "model" / NAME


def make_scans(folder: Path) -> dict[str, Path]:
    """``name -> NIfTI file or series folder``: one oblique volume in both formats, and a real series if it is there."""
    affine = make_affine([1.0, 1.1, 4.0], rotate=(5, 3, -8))
    volume = np.round(smooth_volume((40, 36, 12))).astype(np.int16)
    scans = {"nifti": save_nifti(folder / "studies" / "case01.nii.gz", volume, affine), "dicom": folder / "dicom"}
    write_series(folder / "dicom", volume.astype(np.int32), affine)
    if REAL.is_dir():
        scans["real_dicom"] = Path(shutil.copytree(REAL, folder / "real"))
    return scans


def expected_results(bundle: Path, scans: dict[str, Path], output: Path) -> dict[str, nib.Nifti1Image]:
    """``python -m monai.bundle run`` in the unpacked zip."""
    results = {}
    for name, scan in scans.items():
        done = run_bundle(
            "--config_file", "configs/inference.json", "--device", "cpu",
            "--dataset_dir", scan, "--output_dir", output / name, cwd=bundle, timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        (file,) = (output / name).glob("*_sr.nii.gz")
        results[name] = nib.load(file)
    return results


def compare(host: str, name: str, found: nib.Nifti1Image, expected: nib.Nifti1Image, seconds: float) -> None:
    """Demand the same voxels (to the rounding of the dtype) and the same affine (to 1e-4 mm); note the figures."""
    a, b = (np.asarray(image.dataobj).astype(np.float64) for image in (found, expected))
    assert a.shape == b.shape
    assert found.get_data_dtype() == expected.get_data_dtype()
    difference = np.abs(a - b)
    figures = {
        "host": host,
        "scan": name,
        "shape": "x".join(map(str, a.shape)),
        "dtype": str(found.get_data_dtype()),
        "max_difference": float(difference.max()),
        "voxels_that_differ": float((difference > 0).mean()),
        "affine_mm": float(np.abs(found.affine - expected.affine).max()),
        "seconds": round(seconds, 1),
    }
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    with FIGURES.open("a") as file:
        file.write(json.dumps(figures) + "\n")
    print(json.dumps(figures))
    assert figures["affine_mm"] < 1e-4
    if found.get_data_dtype().kind == "f":
        assert figures["max_difference"] < 1e-5 * np.ptp(b)
    else:
        assert figures["max_difference"] <= 1
        assert figures["voxels_that_differ"] < 1e-3


def without_terminal_noise(log: str) -> str:
    """Progress bars made readable."""
    return re.sub(r"\r[^\n]*\r", "", log)
