# SPDX-License-Identifier: Apache-2.0
"""The real MONAI Deploy application on DICOM series, on the CPU."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scripts.dicom.checking import check_series, series_affine_ras

from tests.clients.hosts import compare, expected_results, make_scans, only_on_demand, unpack_release
from tests.conftest import ROOT
from tests.dicom.synthetic import drop, write_series
from tools.client_environments import make

pytestmark = [only_on_demand, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deploy")


@pytest.fixture(scope="module")
def bundle(folder):
    return unpack_release(folder)


@pytest.fixture(scope="module")
def scans(folder):
    return make_scans(folder)


def run_app(bundle, source, output):
    """As the docs say it, from a folder that holds nothing of ours."""
    command = ["bash", "-c", 'ulimit -s 32768 2>/dev/null; exec "$@"', "-", make("deploy") / "python", ROOT / "deploy"]
    command += ["--input", source, "--output", output, "--model", bundle]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def series_image(folder, dtype):
    """A series as pydicom reads it, axes as in the bundle's NIfTI files; 16-bit values made ``dtype``."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    normal = np.cross(*np.reshape(np.asarray(slices[0].ImageOrientationPatient, float), (2, 3)))
    slices.sort(key=lambda ds: float(np.asarray(ds.ImagePositionPatient, float) @ normal))
    voxels = np.stack([ds.pixel_array.T for ds in slices], axis=2).astype(dtype)
    return nib.Nifti1Image(voxels, series_affine_ras(slices))


@pytest.mark.parametrize("name", ["nifti", "dicom", "real_dicom"])
def test_one_scan(folder, bundle, scans, name):
    if name not in scans:
        pytest.skip("the public data (../shared/data) is not beside this checkout")
    expected = expected_results(bundle, {name: scans[name]}, folder / "own")[name]
    source = scans[name].parent if scans[name].is_file() else scans[name]
    started = time.perf_counter()
    done = run_app(bundle, source, folder / "out" / name)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (folder / "out" / name).iterdir()
    if scans[name].is_dir():
        sources = sorted(scans[name].iterdir())
        affine, voxels = expected.affine, np.asarray(expected.dataobj)
        found = series_image(result, expected.get_data_dtype())
        assert check_series(sorted(result.iterdir()), sources, affine, np.asarray(found.dataobj)) == []
        assert found.shape == voxels.shape
    else:
        found = nib.load(result)
    compare("MONAI Deploy 4.0.0", name, found, expected, seconds)


def test_a_bundle_without_torchscript_works_too(folder, bundle, scans):
    """From ``model.pt`` alone, which the SDK loads through the config."""
    plain = shutil.copytree(bundle, folder / "plain" / bundle.name, ignore=shutil.ignore_patterns("*.ts", "*.onnx"))
    expected = expected_results(bundle, {"nifti": scans["nifti"]}, folder / "own2")["nifti"]
    started = time.perf_counter()
    done = run_app(plain, scans["nifti"].parent, folder / "out_pt")
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (folder / "out_pt").glob("*_sr.nii.gz")
    compare("MONAI Deploy 4.0.0, model.pt", "nifti", nib.load(file), expected, time.perf_counter() - started)


def test_one_bad_series_of_three(folder, bundle, scans):
    """A missing slice is refused by name; the scans beside it get their results; the exit code tells."""
    mixed = folder / "mixed"
    shutil.copytree(scans["dicom"], mixed / "good")
    shutil.copy(scans["nifti"], mixed)
    volume = np.arange(20 * 20 * 12).reshape(20, 20, 12) % 900
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    write_series(mixed / "bad", volume, affine, seed="bad", edit=drop(5))
    done = run_app(bundle, mixed, folder / "out_mixed")
    assert done.returncode == 3, done.stderr[-3000:]
    series, file = sorted((folder / "out_mixed").iterdir(), key=Path.is_file)
    assert len(list(series.glob("*.dcm"))) == 48
    assert file.name == "case01_sr.nii.gz"
    lines = [line for line in done.stderr.splitlines() if ": GAP" in line]
    assert len(lines) == 1
    # run again, it must not overwrite
    again = run_app(bundle, mixed / "good", folder / "out_mixed")
    assert again.returncode == 3
    assert "UNWRITABLE" in again.stderr
    assert {p.name for p in (folder / "out_mixed").iterdir()} == {series.name, file.name}


def test_nothing_to_process(folder, bundle):
    (folder / "empty").mkdir()
    done = run_app(bundle, folder / "empty", folder / "out_empty")
    assert done.returncode == 4
    assert "nothing to process" in done.stderr
