# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the node, and over what; what it tells about itself."""

from __future__ import annotations

import json
import socket
import subprocess
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import pytest

from tests.batch.conftest import thick_series
from tests.node.conftest import echo, free_port, received, send, settings, states, storescp, wait_for

pytestmark = pytest.mark.system


def test_strangers_are_refused(tmp_path, node, caplog):
    thick_series(tmp_path / "scan")
    one = node(settings(callers={"ELSEWHERE": "192.0.2.1"}))
    assert echo(one.port)
    assert echo(one.port, calling="PACS")  # a destination may call: it answers about storage commitment
    assert not echo(one.port, calling="STRANGER")
    assert not echo(one.port, called="OTHER")
    assert not echo(one.port, calling="ELSEWHERE")  # a known title from another address
    assert send(one.port, tmp_path / "scan", calling="STRANGER").returncode != 0
    assert states(one) == {}
    assert one.counts.values["associations_rejected_total"] == 4
    assert "'STRANGER' from 127.0.0.1" in caplog.text


def certificate(folder, name, authority=None, address="127.0.0.1"):
    """A key and a certificate, signed by an authority or by itself."""
    signed = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"] if authority else []
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=IP:{address}", "-keyout", f"{name}.key", "-out", f"{name}.crt", *signed,
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def encrypted(tmp_path):
    """Settings of a node with certificates, the port of its destination, and ``who -> options`` of dcmtk's programs."""
    for name, authority in (("ca", None), ("node", "ca"), ("friend", "ca"), ("strange", None)):
        certificate(tmp_path, name, authority)
    certificate(tmp_path, "elsewhere", "ca", address="192.0.2.9")
    port = free_port()
    tls = {name: str(tmp_path / file) for name, file in
           (("certificate", "node.crt"), ("key", "node.key"), ("authorities", "ca.crt"))}  # fmt: skip
    destinations = {"PACS": {"host": "127.0.0.1", "port": port, "tls": True, "commitment": "off"}}

    def options(who):
        return ["+tls", str(tmp_path / f"{who}.key"), str(tmp_path / f"{who}.crt"), "+cf", str(tmp_path / "ca.crt")]

    return settings(tls=tls, destinations=destinations), port, options


def test_mutual_tls_at_both_ends(tmp_path, node, encrypted):
    thick_series(tmp_path / "scan")
    found, port, options = encrypted
    with storescp(tmp_path / "pacs", port, *options("friend"), "-rc") as pacs:
        one = node(found)
        with socket.create_connection(("127.0.0.1", one.port)):  # one who says nothing holds up nobody
            assert send(one.port, tmp_path / "scan").returncode != 0  # not encrypted
            assert send(one.port, tmp_path / "scan", options=options("strange")).returncode != 0
            assert send(one.port, tmp_path / "scan", options=options("friend")).returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 1})
    assert len(received(pacs)) == 18
    assert one.counts.values["associations_rejected_total"] >= 2


@pytest.mark.parametrize("who", ["strange", "elsewhere"])
def test_a_destination_whose_certificate_is_wrong_gets_nothing(tmp_path, node, encrypted, who):
    thick_series(tmp_path / "scan")
    found, port, options = encrypted
    one = node(found)
    with storescp(tmp_path / who, port, *options(who)) as wrong:
        assert send(one.port, tmp_path / "scan", options=options("friend")).returncode == 0
        wait_for(lambda: one.ledger.select("state = 'produced' AND attempts > 1"))
        assert received(wrong) == []
    with storescp(tmp_path / "pacs", port, *options("friend")) as pacs:
        wait_for(lambda: states(one) == {"acknowledged": 1})
    assert len(received(pacs)) == 18


def test_health_and_metrics(tmp_path, node):
    one = node(settings())
    where = f"http://127.0.0.1:{one.monitor.port}"
    with urlopen(f"{where}/health") as answer:
        assert json.load(answer) == {"status": "ok", "problems": []}
    thick_series(tmp_path / "scan")
    assert send(one.port, tmp_path / "scan").returncode == 0
    with urlopen(f"{where}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    assert found["thinslice_node_images_received_total"] == 9
    assert found["thinslice_node_spool_bytes"] == sum(path.stat().st_size for path in one.spool.inbox.glob("*/*.dcm"))
    assert found["thinslice_node_healthy"] == 1
    one.spool.disk = msgspec.structs.replace(one.spool.disk, free_gib=1e9)
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{where}/health")
    assert caught.value.code == 503
    assert "free space" in json.load(caught.value)["problems"][0]


def test_no_patient_data_in_log_or_ledger(tmp_path, node, caplog):
    caplog.set_level("DEBUG", logger="thinslice")
    thick_series(tmp_path / "scan", PatientName="Secret^Name", PatientID="SECRET-ID", SeriesDescription="SECRET-TEXT")
    one = node(settings())
    assert send(one.port, tmp_path / "scan").returncode == 0
    wait_for(lambda: states(one) == {"produced": 1})
    assert caplog.text
    one.stop()
    assert "secret" not in caplog.text.lower()
    assert b"secret" not in (tmp_path / "spool" / "state.sqlite").read_bytes().lower()
    names = [str(path.relative_to(tmp_path / "spool")) for path in (tmp_path / "spool").rglob("*")]
    assert "secret" not in " ".join(names).lower()
