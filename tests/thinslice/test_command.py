# SPDX-License-Identifier: Apache-2.0
"""The command as a user has it: from a wheel, in another folder, on a scan of their own."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import BUNDLE, make_affine, run_bundle, save_nifti, smooth_volume

pytestmark = pytest.mark.slow
SHAPE = (40, 36, 8)


def scan(folder, name="Knie é.nii.gz", array=None):
    array = smooth_volume(SHAPE).astype(np.int16) if array is None else array
    return save_nifti(folder / name, array, make_affine([1, 1, 4], (3, 5, 0)))


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def bundle_result(folder, source, **ids):
    """The same scan by ``monai.bundle run`` from the checkout."""
    extra = [word for name, value in ids.items() for word in (f"--{name}", str(value))]
    result = run_bundle(
        "--config_file", BUNDLE / "configs" / "inference.json", "--bundle_root", BUNDLE, "--dataset_dir", source,
        "--output_dir", folder / "bundle", *extra, cwd=BUNDLE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    (file,) = (folder / "bundle").glob("*_sr.nii.gz")
    return voxels(file)


def test_one_scan_is_a_few_quiet_lines_and_the_bundles_own_voxels(thinslice, cache):
    source = scan(thinslice.folder)
    thinslice(source.name, "first")  # measures the machine
    result = thinslice(source.name, "out put")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) <= 6
    assert re.match(r"Knie é: 8 slices every 4 mm -> 32 every 1 mm, [\d.]+ s, out put/Knie é_sr\.nii\.gz$", lines[0])
    (measured,) = cache.glob("thinslice/quick-*.json")
    way = json.loads(measured.read_text())["best"]
    ids = {name: value for name, value in way.items() if value}
    ours = voxels(thinslice.folder / "out put" / "Knie é_sr.nii.gz")
    np.testing.assert_array_equal(ours, bundle_result(thinslice.folder, source, **ids))


def test_exact_is_float32_and_every_id_can_be_set(thinslice):
    source = scan(thinslice.folder)
    result = thinslice(source.name, "out", "--exact", "--set", "flips=true", "--set", "data_consistency=off")
    assert result.returncode == 0, result.stderr
    assert "(exact)" in result.stdout
    expected = bundle_result(thinslice.folder, source, flips=True, data_consistency="off")
    np.testing.assert_array_equal(voxels(thinslice.folder / "out" / "Knie é_sr.nii.gz"), expected)


def test_the_spacing_of_the_result_can_be_chosen(thinslice):
    source = scan(thinslice.folder)
    result = thinslice(source.name, "out", "--exact", "--spacing", "2")
    assert result.returncode == 0, result.stderr
    assert "8 slices every 4 mm -> 16 every 2 mm" in result.stdout
    image = nib.load(thinslice.folder / "out" / "Knie é_sr.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), [1, 1, 2], atol=1e-3)
    expected = bundle_result(thinslice.folder, source, target_spacing_mm=2)
    np.testing.assert_array_equal(voxels(thinslice.folder / "out" / "Knie é_sr.nii.gz"), expected)


def test_a_bad_scan_is_one_line_with_its_reason_and_the_good_one_is_done(thinslice):
    scan(thinslice.folder / "in", "good.nii")
    scan(thinslice.folder / "in", "flat.nii", np.zeros(SHAPE, np.int16))
    result = thinslice("in")
    assert result.returncode == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith("flat: CONSTANT: ")
    assert {path.name for path in (thinslice.folder / "thinslice_out").iterdir()} == {"good_sr.nii.gz", "log.txt"}
    assert "1 scan done, 1 not" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.nii"], 2, "IN must exist, got nowhere.nii"),
        (["empty"], 4, "nothing to process"),
        (["a.nii", "a.nii"], 2, "OUT must be a folder"),
        (["a.nii", "--spacing", "-1"], 2, "--spacing must be"),
        (["a.nii", "--set", "flips"], 2, "--set must be ID=VALUE"),
        (["a.nii", "--set", "no_such_id=1"], 2, "--set must name an id of inference.json, got no_such_id; see docs"),
        (["a.nii", "--report"], 2, "folder of DICOM series"),
        (["a.nii", "--device", "toaster"], 2, "--device must be"),
    ],
)
def test_wrong_usage_is_one_line_and_a_code(thinslice, arguments, code, message):
    scan(thinslice.folder, "a.nii")
    (thinslice.folder / "empty").mkdir()
    result = thinslice(*arguments)
    assert result.returncode == code, result.stderr
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not list(thinslice.folder.glob("**/*_sr.nii*"))


def test_a_scan_outside_the_envelope_is_warned_of(thinslice):
    save_nifti(thinslice.folder / "coarse.nii", smooth_volume(SHAPE).astype(np.int16), make_affine([2, 2, 8]))
    result = thinslice("coarse.nii", "out", "--exact")
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("coarse: ")
    assert "in_plane_spacing_mm must lie in 0.4 to 1.2, got 2" in line


def test_doctor_uses_nothing_but_what_is_installed(thinslice, installed):
    result = thinslice("doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert str(installed.parents[1]) in result.stdout.splitlines()[0]
    assert float(re.search(r"^patient +([+-][\d.]+) dB", result.stdout, re.M)[1]) > 0.5


def test_dicom_comes_back_as_dicom_with_a_report(thinslice):
    import pydicom

    from phantom.dicom import write_series

    write_series(thinslice.folder / "in" / "series", smooth_volume((48, 40, 8)), make_affine([1, 1, 4]))
    result = thinslice("in", "out", "--dicom", "--report", "--set", "flips=true")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "8 slices every 4 mm -> 32 every 1 mm" in result.stdout
    assert (thinslice.folder / "out" / "report.html").is_file()
    files = list((thinslice.folder / "out").glob("*/dicom/*.dcm"))
    assert len(files) == 32
    assert {pydicom.dcmread(file).Modality for file in files} == {"MR"}


@pytest.mark.parametrize(
    "command", [["train", "out", "--ct", ".", "--mr", ".", "--iterations", "1"], ["evaluate", "."]]
)
def test_what_a_light_installation_lacks_is_named(thinslice, command):
    result = thinslice(*command)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "torchvision, lpips, skimage, tensorboard, matplotlib" in line
    assert 'pip install "thinslice[train]"' in line
