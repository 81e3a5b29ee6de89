# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: where things are, and small made-up scans with known truth."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
SHARED = ROOT.parent / "shared"
LIGHT = ROOT / "tests" / "light"  # in the path of a Python that must start like a light installation


# The commands flush every file to the disk, which took more than half of the time of the tests that run them. In memory
# it takes none, and a killed process leaves the same files. Some tests start programs from their folders, which a
# container may forbid there. `--basetemp` chooses another place.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 6e9 and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(config, items):
    if not (SHARED / "data").is_dir():
        skip = pytest.mark.skip(reason="the public data (../shared/data) is not beside this checkout")
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def few_threads():
    """Tests run beside each other; results must not depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def shared_data() -> Path:
    return SHARED / "data"


def rotation(degrees_xyz) -> np.ndarray:
    """Rotation matrix, x then y then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees_xyz)):
        c, s = np.cos(angle), np.sin(angle)
        a, b = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[a, a], step[a, b], step[b, a], step[b, b] = c, -s, s, c
        matrix = step @ matrix
    return matrix


def make_affine(
    spacing_mm, rotate=(0, 0, 0), origin=(-40.0, 25.0, 13.0), permute=(0, 1, 2), flip=(1, 1, 1)
) -> np.ndarray:
    """RAS affine with voxel axis i along (signed) world axis permute[i], then rotated."""
    affine = np.eye(4)
    axes = np.zeros((3, 3))
    for voxel_axis, (world_axis, sign) in enumerate(zip(permute, flip, strict=True)):
        axes[world_axis, voxel_axis] = sign
    affine[:3, :3] = rotation(rotate) @ axes * np.asarray(spacing_mm)
    affine[:3, 3] = origin
    return affine


def world_ramp(shape, affine, gradient=(3.0, -2.0, 5.0), offset=500.0) -> np.ndarray:
    """A volume whose every voxel holds a linear function of its world position."""
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    xyz = ijk @ affine[:3, :3].T + affine[:3, 3]
    return xyz @ np.asarray(gradient) + offset


def smooth_volume(shape, seed=0, detail=0.15) -> np.ndarray:
    """Positive float32 texture: an ellipsoid of tissue with structure, zero outside."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (grid**2).sum(0) < 0.7
    waves = sum(
        np.cos(rng.uniform(2, 25, 3) @ grid.reshape(3, -1) * np.pi / 2 + rng.uniform(0, 6)).reshape(shape)
        for _ in range(12)
    )
    return (inside * (600 + 1000 * detail * waves / 3)).clip(0).astype(np.float32)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def run_bundle(*args: str, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess:
    """``python -m monai.bundle run ...`` as a user would, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def told(n_slices, scale_factor, thickness_to_spacing=1.0, row_to_slice_spacing=0.25, profile="gaussian"):
    """What SRNet is told about a stack: positions of the thin slices and ``(1, 4)`` condition."""
    operator = SliceProfileOperator(SliceGrid.over_slab(n_slices, scale_factor), profile, thickness_to_spacing)
    return operator.told(row_to_slice_spacing)


def oriented_scan(volume, scale_factor, spacing_mm=(1.0, 1.0, 4.0), slice_thickness_mm=float("nan")):
    """A working volume ``(H1, H2, n_slices)`` as the preprocessing leaves it: ``(1, H1, H2, n_slices)``, K chosen."""
    meta = {
        "original_affine": np.diag([*spacing_mm, 1.0]), "thick_axis": 2, "working_spacing_mm": np.array(spacing_mm),
        "slice_thickness_mm": slice_thickness_mm, "stored_dtype": "float32", "scale_factor": scale_factor,
    }  # fmt: skip
    return MetaTensor(torch.as_tensor(volume, dtype=torch.float32)[None], meta=meta)


TINY_NETWORK = {
    "blocks": 1, "layers": 2, "growth": 4, "features": 4, "sets": 2, "thin_features": 4, "hidden": 4,
}  # fmt: skip
TINY_GUIDE = {
    "guide_features": 4, "guide_growth": 3, "guide_layers": 2, "guide_blocks": 1,
    "guide_windows": [[-1.0, 1.0], [-0.2, 0.2]], "guide_sides": [3, 5], "guide_eps": 1e-3,
}  # fmt: skip
TINY = {
    **{f"network_def::{name}": value for name, value in TINY_NETWORK.items()},
    "patch_rows": 16,
    "patch_columns": 24,
    "patch_margin": 8,
    "batch_size": 2,
    "val_patches": 4,
    "val_interval": 3,
    "num_workers": 0,
    "device": "cpu",
}


@pytest.fixture
def training_data(tmp_path) -> dict[str, str]:
    """Two near-isotropic CT-like and two thick MR-like volumes, as ids of the training configs."""
    for i in range(2):
        ct = smooth_volume((48, 44, 40), seed=i) * 1.5 - 1000
        save_nifti(tmp_path / "ct" / f"ct{i}.nii.gz", ct.astype(np.int16), make_affine([1, 1, 1.2], rotate=(3, 0, 5)))
        mr = smooth_volume((48, 52, 14), seed=10 + i)
        save_nifti(
            tmp_path / "mr" / f"mr{i}.nii.gz", mr.astype(np.int16), make_affine([0.9, 0.9, 4.0], permute=(2, 0, 1))
        )
    return {"ct_dir": str(tmp_path / "ct"), "mr_dir": str(tmp_path / "mr"), "bundle_root": str(BUNDLE)}


def run_workflow(*configs: str, workflow_type: str = "train", **overrides):
    """Run configs of the bundle in this process; returns the workflow."""
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in configs],
        workflow_type=workflow_type,
        logging_file=False,
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture
def manifest_data(tmp_path) -> Path:
    """A data folder with MANIFEST.csv: four volumes that the recipe of the weights takes, two that it must not."""
    rows = [
        ("train/ct/lidc0314.nii.gz", "CT", "train; weights may ship", [1, 1, 1]),
        ("train/mr_thick/oms01_t1w.nii.gz", "MR", "train; weights may ship", [0.9, 0.9, 4]),
        ("train/mr_hr/t1_adi.nii.gz", "MR", "train; weights may ship", [1, 1, 1]),
        ("train/mr_thick/oms12_t1w.nii.gz", "MR", "train; weights may ship", [0.9, 0.9, 4]),
        ("train/ct_research/lidc9999.nii.gz", "CT", "train; research only", [1, 1, 1]),
        ("test/mr_hr/t1_secret.nii.gz", "MR", "test", [1, 1, 1]),
    ]
    for number, (path, modality, _, spacing) in enumerate(rows):
        volume = smooth_volume((40, 44, 12 if spacing[2] > 1 else 40), seed=number)
        volume = volume * 1.5 - 1000 if modality == "CT" else volume
        save_nifti(tmp_path / "data" / path, volume.astype(np.int16), make_affine(spacing))
    with (tmp_path / "data" / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "modality", "use"])
        writer.writerows(row[:3] for row in rows)
    return tmp_path / "data"
