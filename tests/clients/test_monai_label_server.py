# SPDX-License-Identifier: Apache-2.0
"""A real MONAI Label server on loopback, stock ``monaibundle`` app, the bundle in it unmodified."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest

from tests.clients.hosts import compare, expected_results, make_scans, only_on_demand, unpack_release
from tests.conftest import make_affine, save_nifti, smooth_volume
from tests.dicom.synthetic import LOSSLESS, drop, write_series
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


@contextmanager
def running(command, log, environment, url):
    """A server process, from the moment it answers until the end of the block."""
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(180):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@contextmanager
def label_server(folder, bundle, studies, **settings):
    """MONAI Label with the stock app and the bundle in it; yields its address."""
    binaries = make("label")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(folder / "home"), **settings}
    app = folder / "apps" / "monaibundle"
    if not app.exists():
        subprocess.run(
            ["monailabel", "apps", "--download", "--name", "monaibundle", "--output", app.parent],
            env=environment, check=True, capture_output=True,
        )  # fmt: skip
        shutil.copytree(bundle, app / "model" / NAME)
        (app / "bin").mkdir(exist_ok=True)
        (app / "bin" / "itkimage2segimage").touch()  # else a server with a DICOMweb store downloads it
    port = free_port()
    command = ["monailabel", "start_server", "--app", app, "--studies", studies]
    command += ["--conf", "models", NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    command += ["--conf", "skip_trainers", "true", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder / f"label{port}.log", environment, f"{url}/info/"):
        yield url


@pytest.fixture(scope="module")
def server(folder, bundle, scans):
    with label_server(folder, bundle, folder / "studies") as url:
        yield url


def ask(server, folder, query, **params):
    started = time.perf_counter()
    answer = folder / "answer.nii.gz"
    curl(
        "-o", answer, "-X", "POST", f"{server}/infer/{NAME}?{query}&output=image",
        "-F", "params=" + json.dumps({"device": "cpu", **params}),
    )  # fmt: skip
    return nib.load(answer), time.perf_counter() - started


def ask_session(server, folder, series):
    files = [argument for path in sorted(series.iterdir()) for argument in ("-F", f"files=@{path}")]
    session = json.loads(curl("-X", "PUT", f"{server}/session/", *files))["session_id"]
    answer = ask(server, folder, f"session_id={session}", result_extension=".nii.gz")
    curl("-X", "DELETE", f"{server}/session/{session}")
    return answer


def test_nifti_study(server, folder, expected):
    answer, seconds = ask(server, folder, "image=case01")
    compare("MONAI Label 0.8.5", "nifti", answer, expected["nifti"], seconds)


@pytest.mark.parametrize("name", ["dicom", "real_dicom"])
def test_dicom_study(server, folder, scans, expected, name):
    """Sent as a session; the server hands the folder to the bundle's own reader."""
    if name not in scans:
        pytest.skip("the public data (../shared/data) is not beside this checkout")
    answer, seconds = ask_session(server, folder, scans[name])
    compare("MONAI Label 0.8.5", name, answer, expected[name], seconds)


@pytest.mark.parametrize("encoding", ["rle", "jpeg-lossless", "jpeg-ls", "jpeg-2000"])
def test_compressed_dicom_study(server, folder, scans, expected, encoding):
    """The same volume, compressed: pydicom 2, which the server demands, has no part in decoding it."""
    image = nib.load(scans["nifti"])
    volume = np.asarray(image.dataobj).astype(np.int32)
    write_series(folder / encoding, volume, image.affine, transfer_syntax=LOSSLESS[encoding])
    answer, seconds = ask_session(server, folder, folder / encoding)
    compare("MONAI Label 0.8.5", encoding, answer, expected["dicom"], seconds)


def test_a_refused_scan_is_an_error_and_the_log_says_why(server, folder):
    thin = save_nifti(folder / "thin.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    volume = np.arange(20 * 20 * 6).reshape(20, 20, 6) % 900
    write_series(folder / "gap", volume, make_affine([1, 1, 4]), edit=drop(3))
    for image, reason in ((thin, "ISOTROPIC"), (folder / "gap", "GAP")):
        url = f"{server}/infer/{NAME}?image={image}"
        done = subprocess.run(
            ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "-X", "POST", url], check=True, capture_output=True
        )
        assert done.stdout == b"500"
        for _ in range(30):  # the traceback is written after the answer is sent
            if told := any(f"{reason}: " in log.read_text() for log in folder.glob("label*.log")):
                break
            time.sleep(1)
        assert told, reason


@pytest.mark.system
@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc (a Debian package) is not installed")
def test_dicom_study_in_a_pacs(folder, bundle, scans, expected):
    """The server's store is Orthanc over DICOMweb; the series goes to the bundle's own reader, unconverted."""
    http, dicom = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"), "HttpPort": http,
        "DicomPort": dicom, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{http}"
    with running(["Orthanc", folder / "orthanc.json"], folder / "orthanc.log", os.environ, f"{url}/system"):
        for path in scans["dicom"].iterdir():
            curl("-X", "POST", f"{url}/instances", "--data-binary", f"@{path}")
        (series,) = json.loads(curl("-H", "Accept: application/dicom+json", f"{url}/dicom-web/series"))
        store = f"{url}/dicom-web"
        with label_server(folder, bundle, store, MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI="false") as server:
            uid = series["0020000E"]["Value"][0]
            answer, seconds = ask(server, folder, f"image={uid}", result_extension=".nii.gz")
    compare("MONAI Label 0.8.5, DICOMweb", "dicom", answer, expected["dicom"], seconds)
