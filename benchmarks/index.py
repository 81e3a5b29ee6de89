# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory for indexing a folder tree of many small DICOM files: at first, again, and after a few changes.

The benchmark makes the tree itself and removes it afterwards. The tree consists of series of 30 slices that differ only
in their identifiers. A million files take about 5 GB of disk space.

    python -m benchmarks.index --files 1000000
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from scripts.dicom.index import index_tree

from benchmarks.machine import parser_of, save_report, table
from phantom.dicom import write_series

SLICES = 30
SERIES_PER_STUDY = 10


def make_tree(root: Path, files: int) -> None:
    """Make ``files`` files, in a folder per series within a folder per study."""
    with tempfile.TemporaryDirectory() as folder:
        voxels = np.random.default_rng(0).integers(0, 1000, (8, 8, SLICES))
        paths = write_series(Path(folder), voxels, np.diag([1.0, 1.0, 5.0, 1.0]), seed=1)
        template = [path.read_bytes() for path in paths]
        facts = [pydicom.dcmread(path) for path in paths]
    for number in range(files // SLICES):
        target = root / f"{number // SERIES_PER_STUDY:06}" / f"{number:07}"
        target.mkdir(parents=True)
        for data, ds in zip(template, facts, strict=True):
            for uid, who in (
                (ds.SOPInstanceUID, f"{ds.SOPInstanceUID} {number}"),
                (ds.SeriesInstanceUID, f"series {number}"),
                (ds.StudyInstanceUID, f"study {number // SERIES_PER_STUDY}"),
            ):
                data = data.replace(uid.encode(), _uid_of_length(who, len(uid)))
            (target / f"{int(ds.InstanceNumber):04}").write_bytes(data)


def _uid_of_length(who: str, length: int) -> bytes:
    digits = str(int(hashlib.sha256(who.encode()).hexdigest(), 16))
    return f"2.25.1{digits}"[:length].encode()


def measure(files: int, processes: int | None, scratch: Path | None = None) -> dict[str, Any]:
    """Index one tree in all ways. The peak memory is that of this process, without the processes that read headers."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root, path = Path(folder) / "in", Path(folder) / "index.sqlite"
        started = time.perf_counter()
        make_tree(root, files)
        report: dict[str, Any] = {"files": files, "making_seconds": time.perf_counter() - started, "looks": {}}

        def look(name: str) -> None:
            started = time.perf_counter()
            index = index_tree(root, path, processes=processes)
            seconds = time.perf_counter() - started
            report["looks"][name] = {"seconds": seconds, "series": index.count()}
            index.close()

        look("first")
        look("nothing has changed")
        for series in sorted(root.glob("*/*"))[::1000]:
            (series / "0030").unlink()
        shutil.rmtree(min(root.iterdir()))
        look("one series in a thousand has changed, a study is gone")
        report["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report["index_mib"] = path.stat().st_size / 2**20
    return report


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--processes", type=int, help="default: one per processor")
    parser.add_argument("--scratch", type=Path, help="folder on the disk to measure")
    a = parser.parse_args()
    report = measure(a.files, a.processes, a.scratch)
    rows = [
        [name, str(one["series"]), f"{one['seconds']:.1f}", f"{1e6 * one['seconds'] / report['files']:.0f}"]
        for name, one in report["looks"].items()
    ]
    print(f"{report['files']} files, made in {report['making_seconds']:.0f} s")
    print(table(["look", "series", "seconds", "µs per file"], rows))
    print(f"peak memory {report['peak_mib']:.0f} MiB, index {report['index_mib']:.0f} MiB")
    save_report(report, a.output)


if __name__ == "__main__":
    main()
