# SPDX-License-Identifier: Apache-2.0
"""An index that is brought up to date says what discovery says of the same tree, which knows no index."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from scripts.dicom import index as module
from scripts.dicom.discovery import discover
from scripts.dicom.index import index_tree

from tests.dicom.synthetic import drop, ramp_series, write_series
from tests.dicom.test_fault_matrix import REFUSED

ARRAY, AFFINE = ramp_series()


def known(index) -> dict:
    """What an index says, in discovery's words."""
    left = {(file.path, str(file.error)) for file in index.left_out()}
    nifti = {path for path, why in left if "NIfTI" in why}
    return {
        "series": list(index.series()),
        "refused": [(one.key, one.files, str(one.error)) for one in index.refused()],
        "files": {(path, why) for path, why in left if path not in nifti},
        "nifti": nifti,
    }


def expected(root) -> dict:
    found = discover(root)
    return {
        "series": found.series,
        "refused": [(one.key, one.files, str(one.error)) for one in found.refused],
        "files": {(file.path, str(file.error)) for file in found.files},
        "nifti": set(found.nifti),
    }


def assert_as_discovered(root, path, **options) -> dict:
    index = index_tree(root, path, **options)
    try:
        found = known(index)
        assert found == expected(root)
        assert index.count() == len(found["series"])
        assert sorted(index.sizes()) == [
            (one.key, sum(path.stat().st_size for path in one.files)) for one in found["series"]
        ]
    finally:
        index.close()
    assert path.stat().st_mode & 0o077 == 0
    return found


def spoil(root, rng: np.random.Generator) -> None:
    """Something that happens to a tree."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    file, folder = files[rng.integers(len(files))], folders[rng.integers(len(folders))]
    match rng.integers(9):
        case 0:
            file.unlink()
        case 1:
            file.write_bytes(file.read_bytes()[: rng.integers(400)])  # not even its series can be told
        case 2:
            file.write_bytes(file.read_bytes()[:-50])
        case 3:
            shutil.copy(file, folder / f"copy of {file.name}")
        case 4:
            shutil.copytree(folder, root / f"copy{rng.integers(10**6)}", dirs_exist_ok=True)
        case 5:
            shutil.rmtree(folder)
        case 6:
            file.rename(folder / f"moved {file.name}")
        case 7:
            write_series(root / f"new{rng.integers(10**6)}", ARRAY, AFFINE, seed=str(rng.integers(4)))
        case 8:
            (folder / "notes.txt").write_text("hello")
            (folder / f"scan{rng.integers(3)}.nii.gz").write_text("hello")
            os.symlink("notes.txt", folder / f"link{rng.integers(10**6)}")


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_to_which_things_happen(tmp_path, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(module, "FILES_PER_JOB", 7)
    monkeypatch.setattr(module, "SERIES_PER_JOB", 2)
    root = tmp_path / "in"
    for i in range(4):
        write_series(root / str(i), ARRAY, AFFINE, seed=str(i), StudyInstanceUID=f"1.2.{i % 2}", SeriesNumber=1)
    write_series(root / "0", ARRAY, AFFINE, seed="gap", edit=drop(4))
    assert_as_discovered(root, tmp_path / "index", processes=1 + seed % 2)
    for _ in range(12):
        spoil(root, rng)
        assert_as_discovered(root, tmp_path / "index", processes=1)


@pytest.mark.parametrize("name", REFUSED)
def test_faults_are_told_alike(tmp_path, name):
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=REFUSED[name][0])
    assert_as_discovered(tmp_path / "in", tmp_path / "index")


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    for name in "ab":
        write_series(tmp_path / "in" / name, ARRAY, AFFINE, seed=name)
    read = []
    look_at = module.look_at
    monkeypatch.setattr(module, "look_at", lambda path, *more: read.append(path) or look_at(path, *more))
    assert_as_discovered(tmp_path / "in", tmp_path / "index")
    assert len(read) == 2 * ARRAY.shape[2]
    read.clear()
    assert_as_discovered(tmp_path / "in", tmp_path / "index")
    assert read == []
    victim = min((tmp_path / "in" / "a").iterdir())
    victim.write_bytes(victim.read_bytes() + b"\0\0")
    assert_as_discovered(tmp_path / "in", tmp_path / "index")
    assert {path.parent.name for path in read} == {"a"}  # its series must be sorted again; the other is left alone
    read.clear()
    index_tree(tmp_path / "in", tmp_path / "index", min_slices=5).close()  # other rules: made anew
    assert len(read) == 2 * ARRAY.shape[2]


def test_a_file_that_moves_is_refused_now_and_read_again_later(tmp_path, monkeypatch):
    write_series(tmp_path / "in", ARRAY, AFFINE)
    victim = min((tmp_path / "in").iterdir())
    data = victim.read_bytes()
    victim.write_bytes(data[:-10])
    sleep = time.sleep
    monkeypatch.setattr(module.time, "sleep", lambda seconds: victim.write_bytes(data) and sleep(0))
    index = index_tree(tmp_path / "in", tmp_path / "index", stable_seconds=1)
    ((_, _, why),) = known(index)["refused"]
    index.close()
    assert why.startswith("CHANGED")
    assert len(assert_as_discovered(tmp_path / "in", tmp_path / "index")["series"]) == 1


def test_a_folder_that_cannot_be_listed_hides_nothing_else(tmp_path, monkeypatch):
    for name in ("a", "a/b", "a/b/c"):
        write_series(tmp_path / "in" / name, ARRAY, AFFINE, seed=name)
    assert len(assert_as_discovered(tmp_path / "in", tmp_path / "index")["series"]) == 3
    real = os.scandir

    def scandir(folder):
        if Path(folder).name == "b":
            raise PermissionError
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr("scripts.dicom.tree.os.scandir", scandir)
        found = assert_as_discovered(tmp_path / "in", tmp_path / "index")
    assert len(found["series"]) == 1
    assert len(found["files"]) == 1
    assert len(assert_as_discovered(tmp_path / "in", tmp_path / "index")["series"]) == 3


def test_an_index_that_was_cut_short_goes_on(tmp_path, monkeypatch):
    for i in range(6):
        write_series(tmp_path / "in" / str(i), ARRAY, AFFINE, seed=str(i))
    monkeypatch.setattr(module, "FILES_PER_JOB", 7)
    monkeypatch.setattr(module, "SERIES_PER_JOB", 1)
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0)
    for name, calls in (("look_at", 30), ("series_volumes", 3)):
        left = iter(range(calls))
        real = getattr(module, name)

        def until_it_ends(*words, real=real, left=left, **more):
            if next(left, None) is None:
                raise InterruptedError
            return real(*words, **more)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, until_it_ends)
            with pytest.raises(InterruptedError):
                index_tree(tmp_path / "in", tmp_path / "index", processes=1)
    assert_as_discovered(tmp_path / "in", tmp_path / "index", processes=1)


def test_a_damaged_index_is_made_anew(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE)
    (tmp_path / "index").write_bytes(b"not a database" * 1000)
    assert_as_discovered(tmp_path / "in", tmp_path / "index")


def test_an_unknown_modality_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match=r"modality must be one of .* got 'PT'"):
        index_tree(tmp_path, tmp_path / "index", "PT")


class AtOnce:
    """An executor whose jobs are done before anybody can ask, as when the caller is held up."""

    def __init__(self, *words):
        self.shutdown = lambda **options: None

    def submit(self, work, job):
        future = Future()
        future.set_result(work(job))
        return future


@pytest.mark.parametrize("jobs", [1, 2, 4, 5, 23])
def test_no_job_is_lost_when_all_that_are_under_way_are_done_at_once(monkeypatch, jobs):
    monkeypatch.setattr(module, "ProcessPoolExecutor", AtOnce)
    with module._Helpers(2) as helpers:
        assert sorted(helpers.map(lambda job: job, iter(range(jobs)))) == list(range(jobs))
