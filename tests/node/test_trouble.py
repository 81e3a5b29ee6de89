# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on a usual day: transfers that are cut off, images that come again or late, no room, nobody there."""

from __future__ import annotations

import shutil
import subprocess
import time

import msgspec
import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel

from tests.batch.conftest import thick_series
from tests.node.conftest import cut_off, free_port, received, send, settings, states, storescp, wait_for
from tests.node.stub import Stub
from thinslice.node.ledger import State
from thinslice.node.sender import Sender, _AwayError
from thinslice.node.serving import retry, status
from thinslice.node.settings import Disk
from tools.dcmtk import dcmtk

pytestmark = pytest.mark.system


def test_a_transfer_that_is_cut_off_is_never_taken_for_a_whole_one(tmp_path, node):
    thick_series(tmp_path / "scan")
    files = sorted((tmp_path / "scan").iterdir())
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port, complete={"stable_seconds": 0.5, "interrupted_seconds": 4}))
        cut_off(one.port, files[:6])  # six slices would make a fine volume
        wait_for(lambda: states(one) == {"dead": 1})
        assert one.ledger.select()[0].reason == "INTERRUPTED"
        assert send(one.port, tmp_path / "scan").returncode == 0  # six of them for the second time
        wait_for(lambda: states(one) == {"acknowledged": 1})
        assert one.counts.values["images_copies_total"] == 6
    assert len(received(pacs)) == 18


def test_what_comes_again_is_not_sent_again(tmp_path, node):
    thick_series(tmp_path / "scan")
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port))
        for _ in range(2):
            assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 1})
        assert send(one.port, tmp_path / "scan").returncode == 0
        assert states(one) == {"acknowledged": 1}
        one.stop()
        again = node(settings(port))
        assert send(again.port, tmp_path / "scan").returncode == 0
        assert states(again) == {"acknowledged": 1}
    assert len(received(pacs)) == 18


def test_what_comes_again_in_another_encoding_is_not_sent_again(tmp_path, node):
    """A scanner sends first, an archive later: implicit VR, lengths of groups, private elements without a VR."""
    thick_series(tmp_path / "scan")
    port = free_port()
    (tmp_path / "again").mkdir()
    for path in (tmp_path / "scan").iterdir():
        with pydicom.dcmread(path) as image:
            image.add_new((0x0009, 0x0010), "LO", "MAKER")
            image.add_new((0x0009, 0x1001), "DS", "1.5")
            image.save_as(path)
        subprocess.run([dcmtk("dcmconv"), "+ti", "+g", path, tmp_path / "again" / path.name], check=True)
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port))
        cut_off(one.port, sorted((tmp_path / "scan").iterdir())[:4])  # pydicom encodes them
        assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 1})
        assert send(one.port, tmp_path / "again", options=("-xi",)).returncode == 0
        assert states(one) == {"acknowledged": 1}
        assert len(list((tmp_path / "spool" / "in").glob("*/*.dcm"))) == 0
    assert one.counts.values["images_copies_total"] == 4 + 9
    assert len(received(pacs)) == 18


def test_a_late_image_makes_the_series_new_and_without_the_others_incomplete(tmp_path, node):
    thick_series(tmp_path / "scan")
    late = tmp_path / "late"
    late.mkdir()
    last = sorted((tmp_path / "scan").iterdir())[-1]
    last = shutil.move(last, late / last.name)
    port = free_port()
    one = node(settings(port))
    assert send(one.port, tmp_path / "scan").returncode == 0
    wait_for(lambda: states(one) == {"produced": 1})  # nobody takes it yet
    assert send(one.port, late).returncode == 0
    wait_for(lambda: one.ledger.select()[0].generation == 9 and states(one) == {"produced": 1})
    assert len(one.ledger.select()[0].names) == 9
    thick_series(tmp_path / "more", shape=(24, 20, 10))
    with storescp(tmp_path / "pacs", port):
        wait_for(lambda: states(one) == {"acknowledged": 1})
        cut = sorted((tmp_path / "more").iterdir())[-1]
        (tmp_path / "tenth").mkdir()
        shutil.move(cut, tmp_path / "tenth" / cut.name)
        assert send(one.port, tmp_path / "tenth").returncode == 0
        wait_for(lambda: states(one) == {"dead": 1})
    (row,) = one.ledger.select()
    assert row.reason == "INCOMPLETE"
    assert "9 of its images" in row.message


def test_no_room_is_said_and_nothing_is_lost(tmp_path, node):
    thick_series(tmp_path / "scan")
    size = sum(path.stat().st_size for path in (tmp_path / "scan").iterdir())
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port, disk={"free_gib": 0, "spool_gib": size / 2 / 2**30}))
        assert send(one.port, tmp_path / "scan").returncode != 0
        row = wait_for(one.ledger.select)[0]
        assert 0 < row.bytes <= size / 2
        assert one.counts.values["images_refused_total"] >= 1
        one.spool.disk = msgspec.structs.replace(one.spool.disk, spool_gib=1)
        assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 1})
    assert len(received(pacs)) == 18


@pytest.fixture
def full_disk(tmp_path):
    """A spool on a small file system of its own; gives a file that fills it."""
    (tmp_path / "spool").mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path / "spool")]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield tmp_path / "spool" / "ballast"
    subprocess.run(["umount", "-l", str(tmp_path / "spool")], check=True)


def fill(ballast, but):
    """Fill its file system, but for some bytes."""
    ballast.write_bytes(b"")
    with ballast.open("r+b") as file:
        file.write(bytes(shutil.disk_usage(ballast.parent).free - but))


@pytest.mark.parametrize("told", [True, False])
def test_a_disk_that_is_full_is_reported_and_nothing_is_lost(tmp_path, full_disk, node, told):
    thick_series(tmp_path / "scan", shape=(200, 180, 9))  # 72 kB a slice
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port, complete={"stable_seconds": 0.5, "interrupted_seconds": 60}))
        if not told:  # a quota: what the file system says of free space is of no use
            one.spool.free_bytes = lambda: 10**12
        fill(full_disk, 300_000)
        answers = send(one.port, tmp_path / "scan", options=["-nh", "-v"])  # this sender goes on after a refusal
        assert "Refused: OutOfResources" in answers.stdout + answers.stderr
        assert 0 < len(list((tmp_path / "spool" / "in").glob("*/*.dcm"))) < 9
        time.sleep(2)
        assert states(one) == {"received": 1}  # a part is never taken for the whole, although the transfer ended well
        fill(full_disk, 0)
        assert send(one.port, tmp_path / "scan").returncode != 0
        assert "the last image could not be written" in " ".join(one.problems())
        full_disk.unlink()
        assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"acknowledged": 1})
        assert one.problems() == []
    assert len(received(pacs)) == 18


def test_a_series_is_not_begun_without_room_for_the_work(tmp_path, node):
    thick_series(tmp_path / "scan")
    port = free_port()
    with storescp(tmp_path / "pacs", port) as pacs:
        one = node(settings(port, disk={"free_gib": 0, "work_factor": 1e12}))
        assert send(one.port, tmp_path / "scan").returncode == 0
        wait_for(lambda: states(one) == {"complete": 1})
        assert one.problems() == ["1 series wait for free space of 1e+12 times their size"]
        one.workshop.settings = msgspec.structs.replace(one.settings, disk=Disk(free_gib=0))
        wait_for(lambda: states(one) == {"acknowledged": 1})
    assert len(received(pacs)) == 18


def test_a_destination_that_is_away_is_waited_for(tmp_path, node):
    thick_series(tmp_path / "scan")
    port = free_port()
    one = node(settings(port))
    assert send(one.port, tmp_path / "scan").returncode == 0
    row = wait_for(lambda: one.ledger.select("state = 'produced' AND attempts > 2"))[0]
    assert row.reason == "NOT_SENT"
    with storescp(tmp_path / "pacs", port) as pacs:
        wait_for(lambda: states(one) == {"acknowledged": 1})
    assert len(received(pacs)) == 18


def test_a_node_that_was_killed_after_the_last_image_sends_none_again(tmp_path, node):
    thick_series(tmp_path / "scan")
    port = free_port()
    one = node(settings(port))
    assert send(one.port, tmp_path / "scan").returncode == 0
    row = wait_for(lambda: one.ledger.select("state = 'produced'"))[0]
    one.stop()
    again = node(settings(free_port()))  # nobody is there
    assert again.ledger.progress(row, 18)
    wait_for(lambda: states(again) == {"acknowledged": 1})
    assert again.counts.values.get("images_sent_total", 0) == 0


@pytest.mark.parametrize("error", [_AwayError, OSError])
def test_a_series_that_grows_while_it_is_sent_has_not_failed(tmp_path, node, monkeypatch, error):
    """Its new images make new results, which nobody has tried to send."""
    thick_series(tmp_path / "scan")
    work = Sender.work
    monkeypatch.setattr(Sender, "work", lambda self: False)  # of the node's own thread
    one = node(settings(free_port()))
    assert send(one.port, tmp_path / "scan").returncode == 0
    row = wait_for(lambda: one.ledger.select("state = 'produced'"))[0]

    def store(self, row, files):
        self.ledger.arrived(row.series, row.study, 1)
        raise error("the association was lost")

    monkeypatch.setattr(Sender, "_store", store)
    sender = one.senders["PACS"]
    if error is OSError:
        with pytest.raises(OSError, match="lost"):
            work(sender)
    else:
        assert work(sender)
    found = one.ledger.get(row.series)
    assert found.generation == row.generation + 1
    assert (found.reason, found.attempts) == (None, 0)


def test_a_result_that_cannot_be_read_holds_up_no_other(tmp_path, node):
    for name in ("bad", "good"):
        thick_series(tmp_path / name, seed=name)
    port = free_port()
    one = node(settings(port))
    assert send(one.port, tmp_path / "bad").returncode == 0
    row = wait_for(lambda: one.ledger.select("state = 'produced'"))[0]
    next((tmp_path / "spool" / "out").glob(f"{row.series}*/dicom/*.dcm")).write_bytes(b"damaged")
    assert send(one.port, tmp_path / "good").returncode == 0
    with storescp(tmp_path / "pacs", port):
        wait_for(lambda: states(one) == {"acknowledged": 1, "produced": 1})
        (left,) = one.ledger.select("state = 'produced'")
        assert (left.series, left.reason) == (row.series, "NOT_SENT")
        assert "unexpected InvalidDicomError" in (left.message or "")


def test_an_error_during_a_request_for_commitment_does_not_say_that_images_were_not_sent(tmp_path, node):
    thick_series(tmp_path / "scan")
    port = free_port()
    one = node(settings(port, commitment="required"))
    assert send(one.port, tmp_path / "scan").returncode == 0
    row = wait_for(lambda: one.ledger.select("state = 'produced'"))[0]
    one.stop()
    next((tmp_path / "spool" / "out").glob(f"{row.series}*/dicom/*.dcm")).write_bytes(b"damaged")
    pacs = AE("PACS")
    pacs.add_supported_context(StorageCommitmentPushModel)
    server = pacs.start_server(("127.0.0.1", port), block=False)
    try:
        again = node(settings(port, commitment="required"))
        assert again.ledger.progress(row, 18)
        (dead,) = wait_for(lambda: again.ledger.select("state = 'dead'"))
    finally:
        server.shutdown()
    assert dead.reason == "NOT_COMMITTED"
    assert "unexpected InvalidDicomError; all images have been sent" in (dead.message or "")
    assert (dead.sent, dead.attempts) == (18, 3)  # attempts: three requests


def test_a_dead_letter_is_listed_and_tried_again(tmp_path, node):
    thick_series(tmp_path / "scan")
    uid = pydicom.dcmread(next((tmp_path / "scan").iterdir())).SeriesInstanceUID
    port = free_port()
    one = node(settings(port, retry={"first_seconds": 0.05, "longest_seconds": 0.05, "attempts": 2}))
    assert send(one.port, tmp_path / "scan").returncode == 0
    wait_for(lambda: states(one) == {"dead": 1})
    lines = status(tmp_path / "spool")
    assert "NOT_SENT: PACS must be reachable" in lines[0]
    assert "1 dead" in lines[-1]
    with storescp(tmp_path / "pacs", port) as pacs:
        assert retry(tmp_path / "spool", uid) is State.PRODUCED  # from another process, while the node runs
        wait_for(lambda: states(one) == {"acknowledged": 1})
        assert retry(tmp_path / "spool", uid) is None
    assert len(received(pacs)) == 18


def test_a_worker_that_fails_is_tried_again_and_then_is_a_dead_letter(tmp_path, node, monkeypatch):
    thick_series(tmp_path / "scan")
    tried = []

    def fail(self, task):
        tried.append(task)
        raise RuntimeError("quotes Phantom^One")

    monkeypatch.setattr(Stub, "do", fail)
    one = node(settings())
    assert send(one.port, tmp_path / "scan").returncode == 0
    wait_for(lambda: states(one) == {"dead": 1})
    (row,) = one.ledger.select()
    assert row.reason == "INTERNAL"
    assert "Phantom" not in row.message
    assert len(tried) == 3
