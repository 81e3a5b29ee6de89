# SPDX-License-Identifier: Apache-2.0
"""The contract with MONAI Label, checked with its real `BundleInferTask`, without a server.

The server itself is started by `make test-clients`, in an environment of its own.
"""

import json
import os
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import SaveImaged

from tests.conftest import BUNDLE, make_affine, run_workflow, save_nifti, smooth_volume
from tests.dicom.synthetic import write_series

task_of_label = pytest.importorskip("monailabel.tasks.infer.bundle", reason="monailabel is not installed")

NAME = "mr_thick_slice_super_resolution"
SCANS = {
    "axial_int16": ((24, 20, 9), [1.0, 1.2, 4.0], {"flip": (-1, -1, 1)}, np.int16),
    "sagittal_uint16": ((9, 20, 24), [5.0, 0.9, 0.9], {"permute": (0, 1, 2)}, np.uint16),
    "coronal_float": ((20, 8, 22), [1.0, 4.4, 1.1], {"flip": (1, -1, 1)}, np.float32),
    "oblique_int16": ((22, 20, 9), [0.8, 0.9, 4.0], {"rotate": (21, -13, 34), "permute": (2, 0, 1)}, np.int16),
}


@pytest.fixture(autouse=True)
def own_modules():
    """MONAI Label unloads `scripts`; the tests after these want the modules that they have imported."""
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "scripts"}
    path = list(sys.path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


@pytest.fixture
def model_folder(tmp_path):
    """`apps/monaibundle/model/<name>`, where the bundle goes."""
    folder = tmp_path / "apps" / "monaibundle" / "model" / NAME
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.ts"))
    return folder


def label_task(folder):
    task = task_of_label.BundleInferTask(str(folder), {})
    assert task.is_valid()
    return task


def ask(task, image, **params):
    """What `POST /infer` does with the task; returns the file that it would send."""
    file, result = task({"image": str(image), "device": "cpu", **params})
    assert json.loads(json.dumps(result["label_names"]))
    sent = nib.load(file)
    answer = nib.Nifti1Image(np.asarray(sent.dataobj), sent.affine, sent.header)
    os.remove(file)
    return answer


def own_result(scan, output, **ids):
    """The same scan through `inference.json`."""
    run_workflow(
        "inference.json",
        workflow_type="infer",
        bundle_root=str(BUNDLE),
        dataset_dir=str(scan),
        output_dir=str(output),
        device="cpu",
        progress=False,
        **ids,
    )
    return nib.load(output / scan.name.replace(".nii.gz", "_sr.nii.gz"))


def assert_same_voxels(answer, expected):
    """Equal, but for what another order of the same sums does to float32, and to a value halfway between integers."""
    a, b = (np.asarray(image.dataobj).astype(np.float64) for image in (answer, expected))
    if expected.get_data_dtype().kind == "f":
        assert np.abs(a - b).max() < 1e-5 * np.ptp(b)
    else:
        assert np.abs(a - b).max() <= 1
        assert (a != b).mean() < 1e-3


@pytest.mark.parametrize("name", SCANS)
def test_answer_is_the_bundles_own_result(tmp_path, model_folder, name):
    shape, spacing, orientation, dtype = SCANS[name]
    scan = save_nifti(
        tmp_path / "studies" / f"{name}.nii.gz",
        np.round(smooth_volume(shape)).astype(dtype),
        make_affine(spacing, **orientation),
    )
    expected = own_result(scan, tmp_path / "out")
    answer = ask(label_task(model_folder), scan)
    axis = int(np.argmax(spacing))
    factor = max(spacing) / min(spacing)  # isotropic is the default
    assert answer.shape == tuple(round(factor * n) if a == axis else n for a, n in enumerate(shape))
    assert answer.get_data_dtype() == expected.get_data_dtype()
    assert_same_voxels(answer, expected)
    np.testing.assert_allclose(answer.affine, expected.affine, atol=1e-4)


def test_dicom_folder_goes_to_the_bundles_own_reader(tmp_path, model_folder):
    _, spacing, orientation, _ = SCANS["oblique_int16"]
    array, affine = np.round(smooth_volume((24, 22, 9))), make_affine(spacing, **orientation)
    write_series(tmp_path / "session", array.astype(np.int32), affine, SliceThickness=4)
    scan = save_nifti(tmp_path / "studies" / "a.nii.gz", array.astype(np.uint16), affine)
    expected = own_result(scan, tmp_path / "out")
    answer = ask(label_task(model_folder), tmp_path / "session", result_extension=".nii.gz")
    assert_same_voxels(answer, expected)
    np.testing.assert_allclose(answer.affine, expected.affine, atol=1e-4)


def other_bundle(folder):
    """A bundle with a package `scripts` of its own, whose modules are named like ours."""
    (folder / "scripts" / "networks").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "networks" / "__init__.py").touch()
    (folder / "scripts" / "networks" / "rdn.py").write_text(
        "import torch\n\n\nclass RDN(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.factor = torch.nn.Parameter(torch.ones(()))\n\n"
        "    def forward(self, x):\n"
        "        return 2 * self.factor * x\n"
    )
    image = {"type": "image", "num_channels": 1, "spatial_shape": ["n"] * 3, "channel_def": {"0": "image"}}
    (folder / "configs" / "metadata.json").write_text(
        json.dumps({"version": "1", "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}}})
    )
    loading = {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}
    config = {
        "device": "cpu",
        "bundle_root": ".",
        "network_def": {"_target_": "scripts.networks.rdn.RDN"},
        "preprocessing": {"_target_": "Compose", "transforms": [loading]},
        "inferer": {"_target_": "SimpleInferer"},
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.save({"factor": torch.ones(())}, folder / "models" / "model.pt")
    return folder


def test_a_stranger_named_scripts_before_and_after(tmp_path, model_folder):
    shape, spacing, orientation, dtype = SCANS["axial_int16"]
    array = np.round(smooth_volume(shape)).astype(dtype)
    scan = save_nifti(tmp_path / "studies" / "a.nii.gz", array, make_affine(spacing, **orientation))
    expected = own_result(scan, tmp_path / "out")
    stranger_folder = other_bundle(tmp_path / "apps" / "monaibundle" / "model" / "other")
    stranger_before = label_task(stranger_folder)
    ours = label_task(model_folder)
    stranger_after = label_task(stranger_folder)
    for _ in range(2):
        for stranger in (stranger_before, stranger_after):
            np.testing.assert_array_equal(np.asarray(ask(stranger, scan).dataobj), 2 * array)
            assert_same_voxels(ask(ours, scan), expected)


def test_names_and_files_that_the_host_looks_for(model_folder):
    """`pred` and `image`, the shortest `*.pt` name, a bundle name that it takes for no other kind of task."""
    task = label_task(model_folder)
    assert (task.key_image, task.key_pred) == ("image", "pred")
    assert task.info()["config"]["model_filename"][0] == "model.pt"
    assert not [word for word in ("deepedit", "deepgrow", "detection", "classification") if word in NAME]
    dropped = [t for t in task.post_transforms({"device": "cpu"}) if isinstance(t, SaveImaged)]
    assert not dropped
    # a checkpoint that does not fit would only be warned about by the host
    assert task.network.state_dict().keys() == task._get_network("cpu", None).state_dict().keys()


def test_without_the_cure_the_host_undoes_the_super_resolution(tmp_path, model_folder):
    """What this file guards against does happen: with the source's meta data left alone, the thick grid comes back."""
    shape, spacing, orientation, dtype = SCANS["axial_int16"]
    scan = save_nifti(
        tmp_path / "studies" / "a.nii.gz", smooth_volume(shape).astype(dtype), make_affine(spacing, **orientation)
    )
    task = label_task(model_folder)
    transforms = task.post_transforms

    def uncured(data=None):
        steps = list(transforms(data))
        meta = dict(data["image"].meta)

        def put_back(data):
            data["image"].meta.update({key: meta[key] for key in ("affine", "original_affine", "spatial_shape")})
            return data

        return [*steps[:-1], put_back, steps[-1]]

    task.post_transforms = uncured
    assert ask(task, scan).shape == shape
