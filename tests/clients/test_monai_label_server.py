# SPDX-License-Identifier: Apache-2.0
"""A real MONAI Label server on loopback, stock ``monaibundle`` app, the bundle in it unmodified."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import nibabel as nib
import pytest

from tests.clients.hosts import compare, expected_results, make_scans, only_on_demand, unpack_release
from tools.client_environments import make
from tools.release import NAME

pytestmark = [only_on_demand, pytest.mark.slow, pytest.mark.timeout(3600)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def curl(*arguments) -> bytes:
    return subprocess.run(["curl", "-sS", "--fail", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("label")


@pytest.fixture(scope="module")
def bundle(folder):
    return unpack_release(folder)


@pytest.fixture(scope="module")
def scans(folder):
    return make_scans(folder)


@pytest.fixture(scope="module")
def expected(folder, bundle, scans):
    return expected_results(bundle, scans, folder / "own")


@pytest.fixture(scope="module")
def server(folder, bundle, scans):
    binaries = make("label")
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
    }
    subprocess.run(
        ["monailabel", "apps", "--download", "--name", "monaibundle", "--output", folder / "apps"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    shutil.copytree(bundle, folder / "apps" / "monaibundle" / "model" / NAME)
    port = free_port()
    command = ["monailabel", "start_server", "--app", folder / "apps" / "monaibundle", "--studies", folder / "studies"]
    command += ["--conf", "models", NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    command += ["--conf", "skip_trainers", "true", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(180):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/info/", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def ask(server, folder, query, **params):
    started = time.perf_counter()
    answer = folder / "answer.nii.gz"
    curl(
        "-o", answer, "-X", "POST", f"{server}/infer/{NAME}?{query}&output=image",
        "-F", "params=" + json.dumps({"device": "cpu", **params}),
    )  # fmt: skip
    return nib.load(answer), time.perf_counter() - started


def test_nifti_study(server, folder, expected):
    answer, seconds = ask(server, folder, "image=case01")
    compare("MONAI Label 0.8.5", "nifti", answer, expected["nifti"], seconds)


@pytest.mark.parametrize("name", ["dicom", "real_dicom"])
def test_dicom_study(server, folder, scans, expected, name):
    """Sent as a session; the server hands the folder to the bundle's own reader."""
    if name not in scans:
        pytest.skip("the public data (../shared/data) is not beside this checkout")
    files = [argument for path in sorted(scans[name].iterdir()) for argument in ("-F", f"files=@{path}")]
    session = json.loads(curl("-X", "PUT", f"{server}/session/", *files))["session_id"]
    answer, seconds = ask(server, folder, f"session_id={session}", result_extension=".nii.gz")
    compare("MONAI Label 0.8.5", name, answer, expected[name], seconds)
    curl("-X", "DELETE", f"{server}/session/{session}")
