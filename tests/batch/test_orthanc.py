# SPDX-License-Identifier: Apache-2.0
"""The round trip through a real Orthanc: a study arrives, its thick series come back thin, in the same study."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest

from tests.batch.conftest import ENVIRONMENT, SETTINGS, thick_series
from tests.conftest import ROOT
from tests.dicom.synthetic import drop
from tools.dcmtk import dcmtk
from tools.watch_orthanc import Orthanc, watch

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"

pytestmark = [pytest.mark.system, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def orthanc(tmp_path):
    """A server of the test's own, on loopback, with an empty store; ``.dicom_port`` for C-STORE."""
    if not Path(PROGRAM).exists() or not PLUGIN.exists():
        pytest.skip("orthanc and orthanc-dicomweb are not installed")
    http, dicom = free_port(), free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "store"),
        "IndexDirectory": str(tmp_path / "store"),
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StableAge": 1,
        "Plugins": [str(PLUGIN)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (
        (tmp_path / "orthanc.log").open("w") as log,
        subprocess.Popen([PROGRAM, str(tmp_path / "orthanc.json")], stdout=log, stderr=log) as process,
    ):
        server = Orthanc(f"http://127.0.0.1:{http}")
        server.dicom_port = dicom
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    server.get("/system")
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "orthanc.log").read_text()[-2000:]
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            process.wait(120)


def send(server, *folders):
    """C-STORE, as a scanner would."""
    target = ["127.0.0.1", str(server.dicom_port)]
    subprocess.run([dcmtk("storescu"), "-aec", "ORTHANC", "+sd", "+r", *target, *folders], check=True, timeout=300)


def wait_until_stable(server, count):
    deadline = time.monotonic() + 60
    while len(server.stable_series(0, 1000)[0]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.3)


def series_by_uid(server):
    return {server.uids(name)[1]: name for name in server.get("/series")}


@pytest.fixture
def ids(weights):
    return {"ckpt_path": weights, **SETTINGS, "pictures": 0}


def test_round_trip(tmp_path, orthanc, ids, monkeypatch):
    study = pydicom.uid.generate_uid(entropy_srcs=["study of the round trip"])
    thick_series(tmp_path / "scan" / "thick", seed="thick", StudyInstanceUID=study)
    thick_series(tmp_path / "scan" / "gap", seed="gap", StudyInstanceUID=study, edit=drop(4))
    send(orthanc, tmp_path / "scan")
    wait_until_stable(orthanc, 2)
    before = series_by_uid(orthanc)
    kept = {}

    def keep(command, **options):  # what the batch has made, before the watch tidies up
        result = subprocess.CompletedProcess(command, subprocess.call(command, env=ENVIRONMENT))
        shutil.copytree(tmp_path / "work" / "out", tmp_path / "made", dirs_exist_ok=True)
        return result

    monkeypatch.setattr("tools.watch_orthanc.subprocess.run", keep)
    assert watch(orthanc, tmp_path / "work", 0, 1, 1000, **ids) == 1
    monkeypatch.undo()
    after = series_by_uid(orthanc)
    (new,) = set(after) - set(before)
    assert len(after) == 3
    # the same study, a proper volume for the server's own geometry check
    assert len(orthanc.get("/studies")) == 1
    assert orthanc.uids(after[new])[0] == study
    assert orthanc.get(f"/series/{after[new]}/ordered-slices")["Type"] == "Volume"
    assert len(orthanc.get(f"/series/{after[new]}/ordered-slices")["Slices"]) == 45
    # every element and pixel, read back over DICOMweb, against the files that the batch wrote
    for data in orthanc.fetch(study, new):
        dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
        kept[dataset.SOPInstanceUID] = dataset
    (folder,) = (tmp_path / "made").glob("*/dicom")
    made = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert {one.SOPInstanceUID for one in made} == set(kept)
    for one in made:
        assert one == kept[one.SOPInstanceUID]
        assert (one.pixel_array == kept[one.SOPInstanceUID].pixel_array).all()
    # and the source is untouched
    (thick,) = {uid for uid in before if len(orthanc.get(f"/series/{before[uid]}/instances")) == 9}
    sources = {pydicom.dcmread(path).SOPInstanceUID: path for path in (tmp_path / "scan" / "thick").iterdir()}
    for data in orthanc.fetch(study, thick):
        dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
        assert dataset == pydicom.dcmread(sources[dataset.SOPInstanceUID])
    # nothing new: nothing happens, also once the derived series is stable
    wait_until_stable(orthanc, 3)
    assert watch(orthanc, tmp_path / "work", 0, 1, 1000, **ids) == 0
    assert len(orthanc.get("/series")) == 3
    assert not [path for path in (tmp_path / "work" / "out").glob("[0-9a-f]*") if path.is_dir()]


def test_killed_and_started_again(tmp_path, orthanc, ids):
    """State is lost after the results went back: the same ones are sent again, and Orthanc holds them once."""
    thick_series(tmp_path / "scan", seed="thick")
    send(orthanc, tmp_path / "scan")
    wait_until_stable(orthanc, 1)
    command = [sys.executable, "-m", "tools.watch_orthanc", "--url", orthanc.url, "--work", tmp_path / "work"]
    command += [f"--{key}={value}" for key, value in ids.items()]
    for _ in range(2):
        result = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, result.stderr
        assert "45 slices went back" in result.stderr
        assert len(orthanc.get("/instances")) == 9 + 45
        (tmp_path / "work" / "state.json").unlink()


def test_a_server_that_keeps_something_else_is_noticed(tmp_path, orthanc):
    """Orthanc answers Success to a known identifier and keeps what it has."""
    from tools.watch_orthanc import _send

    thick_series(tmp_path / "one", seed="same")
    send(orthanc, tmp_path / "one")
    thick_series(tmp_path / "other", seed="same", ImageComments="newer")
    with pytest.raises(OSError, match="PACS_MISMATCH"):
        _send(orthanc, tmp_path / "other")


def test_only_this_machine():
    with pytest.raises(ValueError, match="must be on this machine"):
        Orthanc("http://pacs.example.org:8042")
