# SPDX-License-Identifier: Apache-2.0
"""The container, built from this checkout on a Debian that ``debootstrap`` makes: ``make test-container``.

Needs root, ``podman``, ``debootstrap`` and some minutes. What pip is set to on this machine (index, certificates) is
lent to the build and is not in the image. Where an image is there already, ``IMAGE=name`` tests that one.
"""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from phantom.dicom import write_series
from tests.conftest import ROOT, make_affine, run_bundle, save_nifti, smooth_volume
from tests.node.conftest import echo, free_port, received, send, storescp, wait_for
from tests.thinslice.test_mercure import task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("CONTAINER" not in os.environ, reason="make test-container runs it"),
]
NAME = "localhost/thinslice:test"
BASE = "localhost/thinslice-base:test"
LENT = ("/etc/ssl/certs", "/usr/local/share/ca-certificates", *os.environ.get("LEND", "").split())


def podman(*words, check=True, **options):
    result = subprocess.run(
        ["podman", *map(str, words)], capture_output=True, text=True, check=False, timeout=3000, **options
    )
    assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Name of the image."""
    if name := os.environ.get("IMAGE"):
        return name
    if podman("image", "exists", BASE, check=False).returncode:
        root = tmp_path_factory.mktemp("base") / "root"
        include = "--include=python3,python3-venv,ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", include, "bookworm", root, *mirror()], check=True)
        tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        podman("import", "-", BASE, stdin=tar.stdout)
        shutil.rmtree(root)
    lent = [word for path in LENT if Path(path).exists() for word in ("--volume", f"{path}:{path}:ro")]
    lent += ["--volume", f"{pip_settings(tmp_path_factory.mktemp('pip'))}:/etc/pip.conf:ro"]
    torch = ["--build-arg", f"TORCH={os.environ['TORCH']}"] if "TORCH" in os.environ else []
    arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", "EXTRAS=node", *torch]
    podman("build", "--isolation", "chroot", "--network", "host", *arguments, *lent, "--tag", NAME, ROOT)
    return NAME


def pip_settings(folder: Path) -> Path:
    """All that pip is set to here, by files and by the environment, as one file."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    named = (line.split("=", 1) for line in listed.stdout.splitlines())
    settings = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in named}
    path = folder / "pip.conf"
    path.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in settings.items())]))
    return path


def mirror():
    """The mirror that this machine takes its packages from."""
    for file in Path("/etc/apt/sources.list.d").glob("*.sources"):
        for line in file.read_text().splitlines():
            if line.startswith("URIs:"):
                return [line.split()[1]]
    return []


@pytest.fixture
def run(image, tmp_path):
    """Run the image without a network, with ``tmp_path`` as its ``/data``, as a user of no name and no rights."""
    tmp_path.chmod(0o755)
    (tmp_path / "out").mkdir()
    shutil.chown(tmp_path / "out", 12345, 12345)

    def start(*words, options=(), user="12345:12345", network="none"):
        # limits: a machine that is a container itself may not raise its own
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
        safe = ["--network", network, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all"]
        runtime = ["--runtime", os.environ["RUNTIME"]] if "RUNTIME" in os.environ else []
        mine = ["--volume", f"{tmp_path}:/data", "--user", user, "--env", "OMP_NUM_THREADS=1"]
        return podman(*runtime, "run", "--rm", *limits, *safe, *mine, *options, image, *words, check=False)

    return start


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_scan_comes_out_as_the_bundle_has_it(run, tmp_path):
    scan = save_nifti(tmp_path / "scan é.nii.gz", smooth_volume((40, 36, 8)).astype(np.int16), make_affine([1, 1, 4]))
    result = run("scan é.nii.gz", "out", "--exact")
    assert result.returncode == 0, result.stdout + result.stderr
    command = ["--config_file", ROOT / "bundle/configs/inference.json", "--bundle_root", ROOT / "bundle"]
    ours = run_bundle(*command, "--dataset_dir", scan, "--output_dir", tmp_path / "bundle", cwd=tmp_path)
    assert ours.returncode == 0, ours.stderr
    found, expected = (voxels(tmp_path / name / "scan é_sr.nii.gz") for name in ("out", "bundle"))
    # the image may have another version of PyTorch than the tests have
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_it_runs_as_a_user_without_rights(run):
    result = run("doctor", user="10001")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "dB over cubic interpolation: all is well" in result.stdout


def test_mercure_starts_it_with_two_folders_and_no_command(run, tmp_path):
    write_series(tmp_path / "in", smooth_volume((48, 40, 8)), make_affine([1, 1, 4]))
    task(tmp_path / "in", exact=True)
    folders = ["--env", "MERCURE_IN_DIR=/data/in", "--env", "MERCURE_OUT_DIR=/data/out"]
    result = run(options=folders)
    assert result.returncode == 0, result.stdout + result.stderr
    files = list((tmp_path / "out").iterdir())
    assert len(files) == 32
    assert pydicom.dcmread(files[0]).ImageType[0] == "DERIVED"


def test_it_is_a_node_that_receives_thins_and_returns(run, tmp_path):
    write_series(tmp_path / "in", smooth_volume((48, 40, 8)), make_affine([1, 1, 4]))
    (tmp_path / "rules.json").write_text('{"complete": {"stable_seconds": 1}, "disk": {"free_gib": 0}}')
    port, pacs = free_port(), free_port()
    name = f"thinslice-test-{port}"
    words = ["serve", "--aet", "THIN", "--address", "127.0.0.1", "--port", port, "--http-port", "0", "--rules"]
    words += ["rules.json", "--send-to", f"PACS@127.0.0.1:{pacs}", "--accept", "SCANNER"]
    words += ["--spool", "/var/spool/thinslice"]  # a volume of the engine's own, as in compose.yaml
    options = ["--detach", "--name", name, "--volume", f"{name}:/var/spool/thinslice"]
    with storescp(tmp_path / "pacs", pacs) as folder:
        try:
            started = run(*words, options=options, user="10001", network="host")
            assert started.returncode == 0, started.stderr
            wait_for(lambda: echo(port), 120)
            assert send(port, tmp_path / "in").returncode == 0
            wait_for(lambda: "acknowledged" in podman("logs", name).stderr, 300)
        finally:
            podman("rm", "--force", "--volumes", name, check=False)
            podman("volume", "rm", "--force", name, check=False)
        assert len(received(folder)) == 32


def test_the_image_holds_no_scan_and_nothing_that_was_lent_to_the_build(run, image):
    names = ["(", "-name", "*.dcm", "-o", "-name", "*.nii.gz", "-o", "-path", "/etc/pip.conf", ")"]
    words = ["/", "-xdev", *names, "-size", "+0", "-not", "-path", "*/site-packages/*"]
    result = run(*words, options=["--entrypoint", "find"])
    assert result.stdout.split() == [], result.stdout
    kept = podman("image", "inspect", "--format", "{{.Config.Env}}", image).stdout
    assert "PIP_INDEX" not in kept
    assert "PIP_CERT" not in kept
