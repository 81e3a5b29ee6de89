# SPDX-License-Identifier: Apache-2.0
"""Many series and many damaged files: nothing crashes, nothing hangs, memory does not grow."""

from __future__ import annotations

import subprocess
import time

import nibabel as nib
import numpy as np
import psutil
import pytest

from tests.batch.conftest import ENVIRONMENT, read_report, thick_series
from tests.conftest import make_affine
from tests.dicom.synthetic import drop, write_series


def damage(data: bytes, rng: np.random.Generator, pixels_only: bool) -> bytes:
    """Flip, cut, insert or overwrite bytes somewhere; or only flip some where pixels are, for the decoders."""
    data = bytearray(data)
    kind = 0 if pixels_only else rng.integers(4)
    place = int(rng.integers(len(data)))
    if kind == 0:
        first = data.rindex(b"\xe0\x7f\x10\x00") + 12 if pixels_only else 0
        for _ in range(int(rng.integers(1, 20))):
            data[int(rng.integers(first, len(data)))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        data[place:place] = rng.bytes(int(rng.integers(1, 64)))
    else:
        data[place : place + 16] = b"\xff" * 16
    return bytes(data)


@pytest.mark.slow
def test_a_thousand_fuzzed_files(tmp_path, batch_here):
    """125 series of 8 slices, every slice damaged: each file is accounted for, each result is a finite image."""
    rng = np.random.default_rng(0)
    names = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"]
    for i in range(125):
        thick_series(
            tmp_path / "in" / f"{i:03d}", seed=str(i), shape=(32, 32, 8), transfer_syntax=names[i % 4],
            edit_file=lambda k, data, i=i: damage(data, rng, i % 8 < 4),
        )  # fmt: skip
    files = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    assert len(files) == 1000
    started = time.monotonic()
    assert batch_here(timeout_seconds=60, pictures=0) == 3
    print(f"{time.monotonic() - started:.0f} s")
    report = read_report(tmp_path / "out")
    print(report["summary"])
    assert report["summary"]["files"] == 1000
    assert {record["status"] for record in report["series"]} == {"ok", "refused"}
    for record in report["series"]:
        if record["status"] == "ok":
            image = nib.load(tmp_path / "out" / record["nifti"])
            assert np.isfinite(image.get_fdata()).all()


SERIES = 120


@pytest.mark.slow
def test_many_series_with_bad_ones_in_between(tmp_path, batch_command):
    """The runner's memory is flat, and the bad ones cost nothing but themselves."""
    faults = {7: {"edit": drop(3)}, 51: {"edit_file": lambda k, d: d[:-200]}, 100: {"ImagePositionPatient": None}}
    rng = np.random.default_rng(0)
    affine = make_affine((1.0, 1.0, 5.0))
    for i in range(SERIES):
        array = rng.integers(0, 1000, (12, 12, 6))
        write_series(tmp_path / "in" / f"{i:03d}", array, affine, seed=str(i), **faults.get(i, {}))
    ids = {"self_check": False, "error_map": False, "disagreement": False, "target_spacing_mm": 2.5}
    command = batch_command(pictures=3, **{f"inference::{name}": value for name, value in ids.items()})
    resident = []
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=log) as process,
    ):
        runner = psutil.Process(process.pid)
        while process.poll() is None:
            done = len(list((tmp_path / "out").glob("[0-9a-f]*")))
            if 20 <= done < SERIES - len(faults):
                resident.append((done, runner.memory_info().rss / 2**20))
            time.sleep(0.1)
    assert process.returncode == 3
    summary = read_report(tmp_path / "out")["summary"]
    assert (summary["ok"], summary["refused"], summary["series"]) == (SERIES - 3, 3, SERIES)
    counts, sizes = np.array(resident).T
    slope = np.polyfit(counts, sizes, 1)[0]
    print(f"{summary['seconds']:.0f} s; runner {sizes[0]:.0f} to {sizes[-1]:.0f} MiB, {slope * 1000:.1f} KiB a series")
    assert abs(sizes[-1] - sizes[0]) < 4  # less than 42 KiB a series
