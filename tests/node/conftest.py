# SPDX-License-Identifier: Apache-2.0
"""A node on loopback, dcmtk's programs around it, and small series to send."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE

from tests.batch.conftest import batch, batch_command, weights  # noqa: F401 (fixtures)
from tests.batch.test_orthanc import PROGRAM
from tests.node.stub import Stub
from thinslice.node.node import Listening, Node
from thinslice.node.settings import Destination, Settings
from tools.dcmtk import dcmtk

QUICK = {
    "complete": {"stable_seconds": 1.5, "interrupted_seconds": 20},
    "retry": {"first_seconds": 0.2, "longest_seconds": 0.5, "commitment_seconds": 5},
    "disk": {"free_gib": 0},
}

ARRIVALS = """
function ReceivedInstanceFilter(dicom, origin, info)
    local file = io.open("%s", "a")
    file:write(dicom["SOPInstanceUID"], "\\n")
    file:close()
    return true
end
"""


@pytest.fixture(autouse=True)
def programs():
    try:
        dcmtk("storescu")
    except FileNotFoundError as error:
        pytest.skip(str(error))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=240.0):
    """Until a condition holds; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)
    return found


@contextmanager
def storescp(folder: Path, port: int, *options: str):
    """dcmtk's receiver; every image that arrives becomes a file of its own, also one that came before."""
    folder.mkdir(exist_ok=True)
    command = [dcmtk("storescp"), "-od", str(folder), "+uf", *options, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: echo(port, called="ANY") if "+tls" not in options else time.sleep(0.5) or True)
            yield folder
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def orthanc(folder: Path, port: int, node_port: int):
    """Debian's Orthanc as a destination that commits itself; gives its address for HTTP. Twice with one folder: the
    same server again.

    ``folder/arrivals`` gets the instance UID of every image that is sent to it, also of one that it holds already.
    """
    if not Path(PROGRAM).exists():
        pytest.skip("orthanc is not installed")
    folder.mkdir(exist_ok=True)
    (folder / "arrivals.lua").write_text(ARRIVALS % (folder / "arrivals"))
    content = {
        "StorageDirectory": str(folder / "store"), "IndexDirectory": str(folder / "store"), "HttpPort": free_port(),
        "DicomPort": port, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomModalities": {"node": ["THIN", "127.0.0.1", node_port]}, "LuaScripts": [str(folder / "arrivals.lua")],
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(content))
    with (
        (folder / "orthanc.log").open("a") as log,
        subprocess.Popen([PROGRAM, str(folder / "orthanc.json")], stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(lambda: echo(port, called="ORTHANC") or process.poll() is not None, 60)
            assert process.poll() is None, (folder / "orthanc.log").read_text()[-2000:]
            yield f"http://127.0.0.1:{content['HttpPort']}"
        finally:
            process.terminate()
            process.wait(60)


def echo(port: int, calling="SCANNER", called="THIN") -> bool:
    command = [dcmtk("echoscu"), "-aet", calling, "-aec", called, "-to", "20", "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0


def send(port: int, *folders: Path, calling="SCANNER", called="THIN", options=()) -> subprocess.CompletedProcess:
    """C-STORE, as a scanner would."""
    command = [dcmtk("storescu"), "-aet", calling, "-aec", called, "+sd", "+r", *options, "127.0.0.1", str(port)]
    return subprocess.run([*command, *map(str, folders)], capture_output=True, text=True, check=False, timeout=120)


def cut_off(port: int, files: Sequence[Path]) -> None:
    """C-STORE of some images, then the line is cut."""
    ae = AE("SCANNER")
    for sop_class in {pydicom.dcmread(file, stop_before_pixels=True).SOPClassUID for file in files}:
        ae.add_requested_context(sop_class)
    association = ae.associate("127.0.0.1", port, ae_title="THIN")
    assert association.is_established
    for file in files:
        assert association.send_c_store(pydicom.dcmread(file)).Status == 0
    association.abort()


def received(folder: Path) -> list[pydicom.Dataset]:
    """What a destination has, in the order of series and slices."""
    found = [pydicom.dcmread(path) for path in folder.iterdir()]
    return sorted(found, key=lambda one: (one.SeriesInstanceUID, one.InstanceNumber))


def settings(port: int = 9, commitment: str = "off", **others) -> Settings:
    import msgspec

    sections = {**QUICK, **others}
    found = msgspec.convert(sections, Settings)
    destination = Destination("127.0.0.1", port, commitment=commitment)
    return msgspec.structs.replace(
        found,
        callers={"SCANNER": "127.0.0.1", **found.callers},
        destinations=found.destinations or {"PACS": destination},
    )


@pytest.fixture
def node(tmp_path):
    """``settings -> a running node``; several one after the other have the same spool."""
    running = []

    def start(found: Settings) -> Node:
        one = Node(
            Listening("THIN", "127.0.0.1", 0, "127.0.0.1", 0), found, tmp_path / "spool", Stub
        )  # fmt: skip
        running.append(one)
        return one

    yield start
    for one in running:
        if not one.stopped.is_set():
            one.stop()


def states(one: Node) -> dict[str, int]:
    """Number of series by state, without those that have none."""
    return {str(state): count for state, count in one.ledger.counts().items() if count}
