# SPDX-License-Identifier: Apache-2.0
"""The checks of ``thinslice doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from .inference import run_scans
from .location import BUNDLE, version
from .quick import best_device, measurement
from .screen import LOG, Screen

__all__ = ["check"]

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom", "onnxruntime", "openvino")
PATIENT = {"seed": 7, "shape": (96, 112, 96), "spacing_mm": (1.0, 1.0, 1.0), "angles_degrees": (12.0, -7.0, 5.0)}
THICK_FACTOR = 4
LEAST_GAIN_DB = 0.5  # over cubic interpolation; a smaller gain means that something here computes wrongly


def check(device: str | None, verbose: bool) -> int:
    """Check the installation, and print the findings.

    Returns:
        Exit code: 0 if the made-up patient gains over cubic interpolation, else 1.
    """
    with tempfile.TemporaryDirectory(prefix="thinslice-") as name:
        folder = Path(name)
        with Screen.quiet(None if verbose else folder / LOG) as screen:
            for title, text in _facts(device):
                screen.say(f"{title:<12}{text}")
            code, gain_db = _made_up_patient(folder, {"device": device} if device else {}, screen)
            if code:
                screen.warn("patient     has no result; run again with -v to see why")
                return 1
            good = gain_db >= LEAST_GAIN_DB
            verdict = (
                "all is well" if good else f"it must be at least {LEAST_GAIN_DB} dB; something here computes wrongly"
            )
            screen.say(f"{'patient':<12}{gain_db:+.2f} dB over cubic interpolation: {verdict}")
            return 0 if good else 1


def _facts(device: str | None) -> list[tuple[str, str]]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpus += ["Apple MPS"] if torch.backends.mps.is_available() else []
    return [
        ("thinslice", f"{version()} at {BUNDLE}"),
        ("system", f"{platform.platform()}, Python {platform.python_version()}"),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)),
        (
            "processor",
            f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        ),
        ("gpu", ", ".join(gpus) or "none that PyTorch can use"),
        ("device", device or best_device()),
        ("codecs", _codecs()),
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _codecs() -> str:
    """Compressions of DICOM that can be decoded here, and those that cannot."""
    from pydicom import uid
    from scripts.dicom.codecs import missing_package

    wanted = {
        "RLE": uid.RLELossless, "JPEG": uid.JPEGBaseline8Bit, "JPEG lossless": uid.JPEGLosslessSV1,
        "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless, "HTJ2K": uid.HTJ2KLossless,
    }  # fmt: skip
    able = {name: missing_package(syntax) == "" for name, syntax in wanted.items()}
    missing = [name for name, can in able.items() if not can]
    return ", ".join(name for name, can in able.items() if can) + (
        f"; missing: {', '.join(missing)}" if missing else ""
    )


def _made_up_patient(folder: Path, ids: dict[str, Any], screen: Screen) -> tuple[int, float]:
    """Super-resolve a patient with known truth; returns exit code and gain over cubic interpolation in dB."""
    import nibabel as nib
    import numpy as np
    import torch
    from scripts.geometry import SliceGrid
    from scripts.networks.interpolation import interpolate_cubic
    from scripts.transforms.degrade import thicken

    from .phantom.patient import make_patient

    patient = make_patient(**PATIENT)
    thick, affine = thicken(patient.mr, patient.affine_ras, scale_factor=THICK_FACTOR, thick_axis=2)
    nib.save(nib.Nifti1Image(np.rint(thick).astype(np.int16), affine), folder / "patient.nii.gz")
    for way in measurement(ids, screen)["ways"]:
        name = " ".join(str(way[key]) for key in ("engine", "autocast") if way[key])
        found = way.get("error") or f"{way['typical_seconds']:.0f} s for a typical head, {way['psnr_db']:.3f} dB"
        screen.say(f"{'engine':<12}{name}: {found}")
    with open(os.devnull, "w") as nowhere:
        silent = Screen(nowhere, screen.err)
        code = run_scans(folder / "patient.nii.gz", folder, {**ids, "slice_profile": "gaussian"}, False, silent)
    if code:
        return code, 0.0
    result = np.asarray(nib.nifti1.load(folder / "patient_sr.nii.gz").dataobj, dtype=np.float32)
    positions = SliceGrid.over_slab(thick.shape[2], THICK_FACTOR).positions_tensor()
    cubic = interpolate_cubic(torch.from_numpy(thick), positions).numpy()
    errors = [float(np.mean((volume - patient.mr) ** 2)) for volume in (cubic, result)]
    return 0, 10 * float(np.log10(errors[0] / errors[1]))
