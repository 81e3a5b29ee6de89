# SPDX-License-Identifier: Apache-2.0
"""The demo, as `make demo` starts it, at a reduced size."""

import os
import subprocess
import sys

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

from tests.conftest import ROOT, make_affine, save_nifti, smooth_volume


def demo(*arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bundle'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tools.demo", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_the_made_up_patient_gains_over_cubic(tmp_path):
    result = demo("--output", tmp_path, "--shape", "64", "72", "48")
    assert result.returncode == 0, result.stderr[-2000:]
    (file,) = tmp_path.glob("*_sr.nii.gz")
    image = nib.load(file)
    assert image.shape == (64, 72, 48)
    np.testing.assert_allclose(image.header.get_zooms(), 1.0, atol=1e-3)
    rows = [line.split() for line in result.stdout.splitlines() if line.strip().startswith(("cubic", "this model"))]
    cubic, model = (float(row[-2]) for row in rows)
    assert model > cubic + 0.5
    picture = matplotlib.image.imread(tmp_path / "demo.png")
    assert picture.shape[0] > 500
    assert picture.std() > 0.1


@pytest.mark.slow
def test_a_scan_of_ones_own_and_a_bad_one(tmp_path):
    save_nifti(
        tmp_path / "in" / "mine.nii.gz", smooth_volume((28, 24, 8)).astype(np.int16), make_affine([1, 1, 4], (3, 5, 0))
    )
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"nothing")
    result = demo("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert result.returncode == 3
    assert "broken: UNREADABLE" in result.stderr
    assert "Traceback" not in result.stderr
    assert "28 x 24 x 32" in result.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"mine_sr.nii.gz", "mine.png"}
