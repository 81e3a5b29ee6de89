# SPDX-License-Identifier: Apache-2.0
"""Damaged files: never a crash, never a hang, and what is still accepted is where it was."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from scripts.dicom.discovery import discover
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError

from tests.dicom.synthetic import LOSSLESS, ramp_series, write_enhanced, write_series

ARRAY, AFFINE = ramp_series(shape=(36, 32, 4))


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite, cut, insert or repeat; half of the time in the header."""
    damaged = bytearray(data)
    end = 1600 if rng.random() < 0.5 else len(damaged)
    where = int(rng.integers(0, min(end, len(damaged))))
    kind = rng.integers(6)
    if kind == 0:
        for at in rng.integers(0, min(end, len(damaged)), int(rng.integers(1, 9))):
            damaged[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        damaged[where : where + 4] = rng.bytes(4)
    elif kind == 2:
        damaged[where : where + 4] = b"\xff\xff\xff\xff"
    elif kind == 3:
        del damaged[where:]
    elif kind == 4:
        damaged[where:where] = rng.bytes(int(rng.integers(1, 40)))
    else:
        damaged[where : where + 64] = damaged[where + 64 : where + 128]
    return bytes(damaged)


def outcome(folder) -> list:
    """Volumes that come out; every other outcome must be a CaseError."""
    found = discover(folder)
    paths = found.all_paths()
    assert paths == sorted(set(paths)) == sorted(folder.iterdir())
    volumes = []
    for series in found.series:
        with contextlib.suppress(CaseError):
            volumes.append(read_series(series))
    return volumes


def hammer(tmp_path, rounds: int, seed: int) -> int:
    """One file of a series damaged at a time; returns how often a volume came out all the same."""
    rng = np.random.default_rng(seed)
    accepted = 0
    for syntax in LOSSLESS.values():
        folder = tmp_path / syntax
        files = write_series(folder, ARRAY, AFFINE, transfer_syntax=syntax)
        for _ in range(rounds // len(LOSSLESS)):
            file = files[int(rng.integers(len(files)))]
            good = file.read_bytes()
            file.write_bytes(damage(good, rng))
            start = time.perf_counter()
            for volume in outcome(folder):
                accepted += 1
                assert np.isfinite(volume.array).all()
                shape = volume.array.shape
                # a slice may be lost at the end (it became another series, or its file no DICOM file at all)
                assert shape[:2] == ARRAY.shape[:2]
                assert shape[2] in (3, 4)
                step = volume.affine_ras[:3, 2]
                np.testing.assert_allclose(step, AFFINE[:3, 2], atol=0.15)
                np.testing.assert_allclose(volume.affine_ras[:3, :2], AFFINE[:3, :2], atol=0.01)
                first = volume.affine_ras[:3, 3] - AFFINE[:3, 3]
                assert min(np.abs(first).max(), np.abs(first - AFFINE[:3, 2]).max()) < 0.15
            assert time.perf_counter() - start < 10
            file.write_bytes(good)
    return accepted


def hammer_multi_frame(tmp_path, rounds: int, seed: int) -> int:
    """One multi-frame file, damaged again and again; returns how often a volume came out all the same."""
    rng = np.random.default_rng(seed)
    accepted = 0
    for syntax in (LOSSLESS["explicit"], LOSSLESS["rle"], LOSSLESS["jpeg-2000"]):
        folder = tmp_path / syntax
        file = write_enhanced(folder / "x.dcm", [(ARRAY, AFFINE, {})], order=[2, 0, 3, 1], transfer_syntax=syntax)
        good = file.read_bytes()
        groups = good.index(b"\x18\x00\x14\x91")  # where the description of the first frame begins
        for i in range(rounds // 3):
            data = damage(good, rng) if i % 2 else good[:groups] + damage(good[groups:], rng)
            file.write_bytes(data)
            start = time.perf_counter()
            for volume in outcome(folder):
                accepted += 1
                assert np.isfinite(volume.array).all()
                assert volume.array.shape == ARRAY.shape
                np.testing.assert_allclose(volume.affine_ras[:3, 2], AFFINE[:3, 2], atol=0.15)
                np.testing.assert_allclose(volume.affine_ras[:3, :2], AFFINE[:3, :2], atol=0.01)
            assert time.perf_counter() - start < 10
    return accepted


def test_150_damaged_multi_frame_files(tmp_path):
    assert 10 < hammer_multi_frame(tmp_path, rounds=150, seed=0) < 140


def test_300_damaged_files(tmp_path):
    accepted = hammer(tmp_path, rounds=300, seed=0)
    assert 20 < accepted < 280  # else the damage is too small, or too great, to show anything


@pytest.mark.slow
def test_1000_damaged_multi_frame_files(tmp_path):
    assert hammer_multi_frame(tmp_path, rounds=1000, seed=1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_1000_damaged_files(tmp_path, seed):
    assert hammer(tmp_path, rounds=1000, seed=seed) > 0
