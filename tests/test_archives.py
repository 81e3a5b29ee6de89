# SPDX-License-Identifier: Apache-2.0
"""Archives: what is in them is read as if it lay there; nothing lands outside, nothing grows without bound."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scripts.archives import is_archive, unpack
from scripts.data.cases import find_cases, read_case
from scripts.reasons import CaseError, Reason

from tests.conftest import save_nifti
from tests.dicom.synthetic import ramp_series, write_series

ARRAY, AFFINE = ramp_series()


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:" + path.suffix[1:].replace("tgz", "gz").replace("tar", "")) as tape:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tape.addfile(member, io.BytesIO(data))
    return path


def refusal(path, folder, **limits) -> Reason:
    folder.mkdir(exist_ok=True)
    with pytest.raises(CaseError) as caught:
        unpack(path, folder, **limits)
    return caught.value.reason


@pytest.mark.parametrize("name", ["study.zip", "study.tar", "study.tar.gz", "study.tgz", "STUDY.tar.xz"])
def test_scans_in_an_archive_are_cases(tmp_path, name):
    for file in write_series(tmp_path / "in" / "series", ARRAY, AFFINE):
        assert file.is_file()
    save_nifti(tmp_path / "in" / "p1" / "T2.nii.gz", ARRAY.astype(np.int16), AFFINE)
    files = {str(p.relative_to(tmp_path / "in")): p.read_bytes() for p in (tmp_path / "in").rglob("*") if p.is_file()}
    path = pack(tmp_path / name, files)
    assert is_archive(path)
    cases = find_cases(path)
    assert cases.items[0]["case"] == "p1/T2"
    assert len(cases.items) == 2
    for item in cases.items:
        np.testing.assert_array_equal(read_case(item["image"])[1].array, ARRAY)
    unpacked = Path(str(cases.items[0]["image"])).parents[1]
    assert unpacked.stat().st_mode & 0o777 == 0o700
    del cases, item
    assert not unpacked.exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil", "a\\..\\evil"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_no_name_leads_out(tmp_path, suffix, name):
    path = pack(tmp_path / f"x{suffix}", {"good": b"x", name: b"evil"})
    (tmp_path / "out" / "in").mkdir(parents=True)
    assert refusal(path, tmp_path / "out" / "in") is Reason.ARCHIVE
    assert {p.name for p in tmp_path.rglob("*")} == {"out", "in", "good", path.name}


def test_links_devices_and_passwords_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as tape:
        member = tarfile.TarInfo("x")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tape.addfile(member)
    with tarfile.open(tmp_path / "fifo.tar", "w") as tape:
        member = tarfile.TarInfo("x")
        member.type = tarfile.FIFOTYPE
        tape.addfile(member)
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    locked = bytearray(pack(tmp_path / "locked.zip", {"x": b"text"}).read_bytes())
    locked[6] |= 1
    locked[locked.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    for name in ("link.tar", "fifo.tar", "link.zip", "locked.zip"):
        assert refusal(tmp_path / name, tmp_path / "out") is Reason.ARCHIVE, name


def test_bombs_stop_at_the_limit(tmp_path):
    path = pack(tmp_path / "bomb.zip", {"x": bytes(2**26)})
    assert path.stat().st_size < 2**17
    assert refusal(path, tmp_path / "out", max_bytes=2**22) is Reason.TOO_LARGE
    assert (tmp_path / "out" / "x").stat().st_size <= 2**22
    many = pack(tmp_path / "many.tar", {str(i): b"" for i in range(20)})
    assert refusal(many, tmp_path / "many", max_files=10) is Reason.TOO_LARGE


def test_damaged_archives_and_double_names_are_refused(tmp_path):
    data = {"x": np.random.default_rng(0).bytes(10**5)}
    for name in ("x.zip", "x.tar.gz"):
        path = pack(tmp_path / name, data)
        path.write_bytes(path.read_bytes()[: -(10**4)])
        assert refusal(path, tmp_path / f"out-{name}") is Reason.TRUNCATED, name
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("x", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x", b"2")
    assert refusal(tmp_path / "twice.zip", tmp_path / "twice") is Reason.ARCHIVE


def test_an_archive_that_cannot_be_read_is_a_refused_case(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    cases = find_cases(tmp_path / "x.zip")
    assert not cases.items
    assert [(name, error.reason) for name, error in cases.refused] == [("x.zip", Reason.TRUNCATED)]
