# SPDX-License-Identifier: Apache-2.0
"""Archives: what is in them is read as if it lay there; nothing lands outside, nothing grows without bound."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scripts.archives import is_archive, unpack
from scripts.data.cases import find_cases, read_case
from scripts.dicom.discovery import discover
from scripts.dicom.index import Index, index_tree
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError, Reason

from tests.conftest import BUNDLE, save_nifti
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
    assert Path(str(cases.items[0]["image"])).parents[1].stat().st_mode & 0o777 == 0o700


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


def members_of(folder: Path, base: Path) -> dict[str, bytes]:
    return {str(path.relative_to(base)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path):
    """Half of a series in a zip file and half beside it, another series and a scan in a tar file, and a spoilt zip."""
    write_series(tmp_path / "made", ARRAY, AFFINE)
    write_series(tmp_path / "other", ARRAY, AFFINE, seed="other")
    save_nifti(tmp_path / "other" / "p1" / "T2.nii.gz", ARRAY.astype(np.int16), AFFINE)
    halves = members_of(tmp_path / "made", tmp_path)
    root = tmp_path / "in"
    (root / "made").mkdir(parents=True)
    names = sorted(halves)
    for name in names[:6]:
        (root / name).write_bytes(halves[name])
    pack(root / "rest.zip", {name: halves[name] for name in names[6:]})
    pack(root / "other.tar.gz", members_of(tmp_path / "other", tmp_path / "other"))
    pack(root / "evil.zip", {"../evil": b"evil"})
    (root / "spoilt.zip").write_bytes((root / "rest.zip").read_bytes()[:-900])
    return root


def test_archives_in_a_folder_belong_to_it(tree):
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    cases = find_cases(tree)
    assert [item["case"] for item in cases.items][:1] == ["other.tar.gz/p1/T2"]
    assert len(cases.items) == 3
    for item in cases.items:
        np.testing.assert_array_equal(read_case(item["image"])[1].array, ARRAY)
    refused = {name: error.reason for name, error in cases.refused}
    assert refused == {"evil.zip": Reason.ARCHIVE, "spoilt.zip": Reason.TRUNCATED}
    assert {name for name, _ in cases.skipped} == {"rest.zip", "other.tar.gz"}
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_was_unpacked_stays_for_the_process_and_not_longer(tree):
    """Cases are paths: they must be there as long as anybody may read them."""
    items = find_cases(tree).items
    assert {read_case(item["image"])[1].array.shape for item in items} == {ARRAY.shape}
    code = f"from scripts.data.cases import find_cases; print(find_cases({str(tree)!r}).items[0]['image'])"
    environment = {**os.environ, "PYTHONPATH": str(BUNDLE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    image = Path(done.stdout.strip())
    unpacked = next(folder for folder in image.parents if folder.name.startswith("scans-"))
    assert not unpacked.exists()


def test_the_index_looks_into_archives_and_reads_them_once(tree, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()

    def look() -> Index:
        return index_tree(tree, tmp_path / "out" / ".index.sqlite", processes=1)

    index = look()
    series = list(index.series())
    assert sorted(len(one.slices) for one in series) == [12, 12]
    whole = next(one for one in series if one.slices[0].path.is_relative_to(tree) or len(one.files) == 12)
    np.testing.assert_array_equal(read_series(whole).array, ARRAY)
    assert {str(index.place_of(path).parent) for one in series for path in one.files} == {
        "made", "rest.zip/made", "other.tar.gz",
    }  # fmt: skip
    left = {str(index.place_of(file.path)): file.error.reason for file in index.left_out()}
    assert left == {
        "evil.zip": Reason.ARCHIVE, "spoilt.zip": Reason.TRUNCATED, "rest.zip": Reason.NOT_AN_IMAGE,
        "other.tar.gz": Reason.NOT_AN_IMAGE, "other.tar.gz/p1/T2.nii.gz": Reason.NOT_AN_IMAGE,
    }  # fmt: skip
    index.close()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".index.sqlite"]
    monkeypatch.setattr("scripts.dicom.index._read", None)  # nothing may be read again
    index = look()
    assert [one.key for one in index.series()] == [one.key for one in series]
    index.close()
    monkeypatch.undo()
    (tree / "rest.zip").unlink()
    index = look()
    assert sorted(len(one.slices) for one in index.series()) == [6, 12]
    index.close()


def test_an_archive_in_an_archive_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    inner = pack(tmp_path / "inner.zip", {"x": b"text"}).read_bytes()
    pack(tmp_path / "in" / "outer.zip", {"inner.zip": inner})
    cases = find_cases(tmp_path / "in")
    assert [(name, error.reason) for name, error in cases.refused] == [("inner.zip", Reason.ARCHIVE)]


def test_slices_that_gzip_has_compressed_are_read_as_they_are(tmp_path):
    for file in write_series(tmp_path / "in", ARRAY, AFFINE):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    (series,) = discover(tmp_path / "in").series
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine_ras, AFFINE, atol=1e-4)


def test_a_compressed_slice_that_is_damaged_or_a_bomb_is_refused(tmp_path):
    files = write_series(tmp_path / "in", ARRAY, AFFINE)
    good = gzip.compress(files[5].read_bytes())
    files[5].unlink()
    at = files[5].with_name("5.dcm.gz")
    for data, reason in ((good[:-20], Reason.TRUNCATED), (good[:300] + b"\0" * 40 + good[340:], Reason.UNREADABLE)):
        at.write_bytes(data)
        (refused,) = discover(tmp_path / "in").refused
        assert refused.error.reason is reason
    at.write_bytes(gzip.compress(files[4].read_bytes() + bytes(2**28)))
    assert discover(tmp_path / "in").files[0].error.reason is Reason.TOO_LARGE


def test_an_archive_that_cannot_be_read_is_a_refused_case(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    cases = find_cases(tmp_path / "x.zip")
    assert not cases.items
    assert [(name, error.reason) for name, error in cases.refused] == [("x.zip", Reason.TRUNCATED)]
