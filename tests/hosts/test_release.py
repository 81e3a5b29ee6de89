# SPDX-License-Identifier: Apache-2.0
"""The release, unpacked elsewhere: offline, with nothing of the repository on the path."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.conftest import BUNDLE, ROOT, make_affine, run_workflow, save_nifti, smooth_volume, told
from tools.release import NAME, build, require_clean_tree

OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise OSError("this process must not use the network")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
"""
# what `python -m monai.bundle run` does, then a look at where every module has come from
RUN_AND_TELL = """
import json, runpy, sys
sys.argv[0] = "monai.bundle"
try:
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
finally:
    files = {n: getattr(m, "__file__", None) for n, m in list(sys.modules.items())}
    open("modules.json", "w").write(json.dumps({n: f for n, f in files.items() if f}))
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def unpacked(release, tmp_path):
    with zipfile.ZipFile(release) as archive:
        archive.extractall(tmp_path / "elsewhere")
    return tmp_path / "elsewhere" / NAME


@pytest.mark.slow
def test_what_the_zip_holds(release):
    version = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    assert release.name == f"{NAME}_v{version}.zip"
    with zipfile.ZipFile(release) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        top = {name.split("/")[0] for name in names}
        state = archive.read(f"{NAME}/models/model.pt")
    assert top == {NAME}
    wanted = ["LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "models/model.ts"]
    wanted += ["models/model.onnx", "docs/README.md", "docs/data_license.txt", "scripts/__init__.py"]
    assert not [name for name in wanted if f"{NAME}/{name}" not in names]
    assert not [name for name in names if "__pycache__" in name or name.endswith((".nii.gz", ".dcm", ".log"))]
    assert hashlib.sha256(state).digest() == hashlib.sha256((BUNDLE / "models" / "model.pt").read_bytes()).digest()


@pytest.mark.slow
def test_unpacked_elsewhere_it_runs_offline_and_gives_the_same(unpacked, tmp_path):
    scan = np.round(smooth_volume((30, 26, 9))).astype(np.int16)
    source = save_nifti(tmp_path / "in" / "a.nii.gz", scan, make_affine([1.0, 1.1, 4.0], rotate=(5, 3, -8)))
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "sitecustomize.py").write_text(OFFLINE)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BUNDLE"))}
    environment["PYTHONPATH"] = str(tmp_path / "offline")
    command = [sys.executable, "-c", RUN_AND_TELL, "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(source), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = json.loads((unpacked / "modules.json").read_text())
    ours = {name: file for name, file in modules.items() if name.split(".")[0] == "scripts"}
    assert len(ours) > 10
    assert all(os.path.realpath(file).startswith(os.path.realpath(unpacked)) for file in ours.values())
    strangers = [f for f in modules.values() if f.startswith(f"{ROOT}/") and not f.startswith(sys.prefix)]
    assert not strangers
    run_workflow(
        "inference.json", workflow_type="infer", bundle_root=str(BUNDLE), dataset_dir=str(source),
        output_dir=str(tmp_path / "own"), device="cpu", progress=False,
    )  # fmt: skip
    found, expected = (nib.load(tmp_path / folder / "a_sr.nii.gz") for folder in ("out", "own"))
    difference = np.abs(np.asarray(found.dataobj, float) - np.asarray(expected.dataobj, float))
    assert difference.max() <= 1  # another number of threads sums in another order
    assert (difference > 0).mean() < 1e-3
    np.testing.assert_array_equal(found.affine, expected.affine)


@pytest.mark.slow
def test_exports_in_the_zip_are_in_step_with_its_weights(unpacked):
    """Against a network that this test builds itself from the shipped weights."""
    import onnxruntime
    from scripts.networks.srnet import SRNet

    definition = json.loads((unpacked / "configs" / "inference.json").read_text())["network_def"]
    sizes = {key: value for key, value in definition.items() if not isinstance(value, str)}
    network = SRNet(**sizes).eval().requires_grad_(False)
    network.load_state_dict(torch.load(unpacked / "models" / "model.pt", weights_only=True))
    script = torch.jit.load(unpacked / "models" / "model.ts")
    session = onnxruntime.InferenceSession(unpacked / "models" / "model.onnx", providers=["CPUExecutionProvider"])
    for shape, factor in (((2, 1, 24, 8), 4), ((3, 1, 31, 17), 2.3)):
        image = torch.rand(shape) * 2 - 1
        inputs = {"image": image, **dict(zip(("positions", "condition"), told(shape[-1], factor), strict=True))}
        expected = network(*inputs.values())
        torch.testing.assert_close(script(*inputs.values()), expected, atol=1e-4, rtol=0)
        given = {name: value.numpy() for name, value in inputs.items()}
        torch.testing.assert_close(torch.from_numpy(session.run(None, given)[0]), expected, atol=1e-4, rtol=0)


def test_only_a_clean_tree_is_released(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    require_clean_tree(tmp_path)
    (tmp_path / "a").write_text("2")
    with pytest.raises(SystemExit, match="tree must be clean, got 1"):
        require_clean_tree(tmp_path)
    git("commit", "-am", "second")
    (tmp_path / "new").touch()
    with pytest.raises(SystemExit, match="got 1 changed or new files"):
        require_clean_tree(tmp_path)
    shutil.rmtree(tmp_path / ".git")
