# SPDX-License-Identifier: Apache-2.0
"""The batch on a whole archive, with real tasks, records, reports and Dask, and a stand-in for the network.

The stand-in sleeps instead of super-resolving, for a time drawn around ``--series-seconds`` and divided by ``--speed``.
One series in a hundred fails. At the rate at which a node would fail (``--deaths-per-hour`` of the archive's time), a
worker is killed with SIGKILL and another one is started. With ``--speed 0`` the stand-in does not sleep, and the
remaining time per series is that of the batch and of Dask.

The series of the first page have pictures as large as real ones, and Chromium opens this page, if it is installed.

    python -m benchmarks.archive --series 100000
    python -m benchmarks.archive --series 20000 --speed 300 --deaths-per-hour 1
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import sync_playwright
from scipy import ndimage
from scripts.batch.html import PICTURES
from scripts.batch.isolation import Team
from scripts.batch.report import SeriesRecord, Status
from scripts.batch.runner import BatchRunner
from scripts.batch.tasks import Task, WorkerSpec
from scripts.dicom.discovery import SeriesCandidate, discover
from scripts.reasons import Reason

from benchmarks.cluster import LocalCluster
from benchmarks.machine import parser_of, save_report, table
from phantom.dicom import write_series

SLICES, FACTOR = 30, 4


class StandIn(Team):
    """Workers that only sleep and return a plausible record for each series."""

    def __init__(self, spec: WorkerSpec, size: int, stage: Path) -> None:
        self.ids = spec.ids

    def do(self, task: Task) -> SeriesRecord:
        """Sleep for the time of a series, and refuse one series in a hundred."""
        draw = np.random.default_rng(int(task.series.key, 16))
        seconds = float(self.ids["series_seconds"] * draw.lognormal(sigma=0.5))
        if self.ids["speed"]:
            time.sleep(seconds / self.ids["speed"])
        if draw.random() < 0.01:
            return replace(task.record, status=Status.REFUSED, reason=str(Reason.CONSTANT), message="stand-in")
        grid = {"shape": [320, 320, SLICES], "spacing_mm": [0.9, 0.9, 4.0], "affine_ras": np.eye(4).tolist()}
        grid |= {"thick_axis": 2}
        digest = hashlib.sha256(task.series.key.encode()).hexdigest()
        return replace(
            task.record, status=Status.OK, geometry_before=grid, geometry_after=grid,
            nifti=f"{task.series.key}/{task.series.key}_sr.nii.gz", n_slices_out=FACTOR * SLICES,
            input_sha256=digest, model_sha256=digest, config_sha256=digest, seconds=seconds, peak_memory_bytes=2**31,
            clipped_voxels=0, data_consistency_residual=0.0,
        )  # fmt: skip

    def stop(self) -> None:
        """Do nothing, because there are no processes to stop."""


class StandInIndex:
    """Index of any number of series, all of which are alike."""

    def __init__(self, one: SeriesCandidate, series: int) -> None:
        self.one, self.number = one, series

    def count(self) -> int:
        """Number of series."""
        return self.number

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Sizes of the series; none of them takes space."""
        return iter(())

    def series(self) -> Iterator[SeriesCandidate]:
        """The series, each with a key of its own."""
        for number in range(self.number):
            yield replace(self.one, key=self.key(number))

    def place_of(self, path: Path) -> Path:
        """Path of a file within the tree."""
        return Path("series") / path.name

    @staticmethod
    def key(number: int) -> str:
        """A key that looks like a hashed UID."""
        return hashlib.sha256(str(number).encode()).hexdigest()[:16]

    def refused(self) -> Iterator[Any]:
        """Series that are refused before they are processed; there are none."""
        return iter(())

    left_out = refused

    def close(self) -> None:
        """Do nothing, because nothing is kept."""


class Archive(BatchRunner):
    """The batch, with the stand-ins for index and workers."""

    team = StandIn


def make_pictures(output: Path, series: int, results_per_page: int, slices: int, edge: int = 256) -> None:
    """Make pictures for the series of the first page."""
    y, x = np.mgrid[:edge, :edge] / edge
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(edge, edge)), 2)
    grey = 128 + 60 * np.cos(9 * x + 5 * y) + 150 * texture
    data = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(data, "WEBP", quality=75)
    picture = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
    cuts = [{"number": k, "of": slices, "before": picture, "after": picture, "map": picture} for k in range(slices)]
    planes = [
        {"name": name, "width_mm": 230, "height_mm": 230, "slices": cuts} for name in ("axial", "coronal", "sagittal")
    ]
    content = json.dumps({"planes": planes, "window": [0, 255], "map_max": 255, "map_name": "error"})
    for key in sorted(map(StandInIndex.key, range(series)))[: 2 * results_per_page]:
        (output / key).mkdir(parents=True)
        (output / key / PICTURES).write_text(content)


def opening_milliseconds(page: Path) -> float | None:
    """Time from the request of a page to the end of its load event in Chromium, including scripts; the best of three.

    Returns:
        Milliseconds, or ``None`` if Chromium is not installed.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        times = []
        for _ in range(3):
            tab = browser.new_page()
            tab.goto(page.as_uri(), wait_until="load")
            tab.wait_for_timeout(500)
            times.append(float(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")))
            tab.close()
        browser.close()
    return min(times)


class Peaks:
    """Peak resident memory of processes by name, sampled from time to time."""

    def __init__(self, **processes: psutil.Process) -> None:
        self.processes = processes
        self.mib = dict.fromkeys(processes, 0.0)

    def look(self) -> None:
        """Take one sample."""
        for name, process in self.processes.items():
            self.mib[name] = max(self.mib[name], process.memory_info().rss / 2**20)


def measure(
    series: int, workers: int, threads: int, series_seconds: float, speed: float, deaths_per_hour: float
) -> dict[str, Any]:
    """Process one archive and return the measurements."""
    with tempfile.TemporaryDirectory() as folder, LocalCluster(Path(folder) / "cluster", workers, threads) as cluster:
        source, output = Path(folder) / "in", Path(folder) / "out"
        write_series(source, np.random.default_rng(0).integers(0, 1000, (16, 16, SLICES)), np.diag([1, 1, 5, 1.0]))
        (one,) = discover(source).series
        archive = Archive(
            bundle_root=".", dataset_dir=str(source), output_dir=str(output), inference_configs=[],
            inference={"series_seconds": series_seconds, "speed": speed},
            discover=lambda root, path: StandInIndex(one, series),  # type: ignore[arg-type, return-value]
            executor="dask", scheduler=cluster.address, pictures=0, report_json_most=0,
        )  # fmt: skip
        make_pictures(output, series, archive.results_per_page, slices=9)
        peaks = Peaks(client=psutil.Process(), scheduler=psutil.Process(cluster.scheduler.pid))
        over = threading.Event()
        deaths = 0

        def watch() -> None:
            nonlocal deaths
            # seconds of the benchmark between two deaths of a worker
            pause = 3600 / deaths_per_hour / speed if deaths_per_hour else 0
            last = time.monotonic()
            while not over.wait(1):
                peaks.look()
                if pause and time.monotonic() - last > pause:
                    last = time.monotonic()
                    deaths += 1
                    cluster.workers.pop(0).kill()
                    cluster.start_worker()

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        try:
            code = archive.run()
        finally:
            over.set()
            watcher.join()
        seconds = time.perf_counter() - started
        summary = json.loads((output / "report.json").read_text())["summary"]
        with (output / "report.csv").open() as file:
            lines = sum(1 for _ in csv.reader(file)) - 1
        return {
            "series": series, "code": code, "seconds": seconds, "processing_seconds": summary["seconds"],
            "report_seconds": seconds - summary["seconds"], "summary": summary, "lines": lines, "deaths": deaths,
            "pages": len(list((output / "report").glob("*.html"))) + 1,
            "table_mib": (output / "report.csv").stat().st_size / 2**20, "peak_mib": peaks.mib,
            "milliseconds_per_series": 1000 * summary["seconds"] / series,
            "opening_milliseconds": opening_milliseconds(output / "report.html"),
            "first_page_mib": (output / "report.html").stat().st_size / 2**20,
        }  # fmt: skip


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--per-worker", type=int, default=20, help="series at a time per worker")
    parser.add_argument("--series-seconds", type=float, default=60, help="median time of a series")
    parser.add_argument("--speed", type=float, default=0, help="archive seconds per second here; 0: no sleep")
    parser.add_argument("--deaths-per-hour", type=float, default=0, help="deaths per hour of the archive's time")
    a = parser.parse_args()
    r = measure(a.series, a.workers, a.per_worker, a.series_seconds, a.speed, a.deaths_per_hour)
    opening = r["opening_milliseconds"]
    rows = [
        ["exit code; records", f"{r['code']}; {r['lines']}"],
        ["done, refused, failed", "{ok}, {refused}, {failed}".format_map(r["summary"])],
        ["workers killed", str(r["deaths"])],
        ["processing, s", f"{r['processing_seconds']:.1f}"],
        ["processing per series, ms", f"{r['milliseconds_per_series']:.2f}"],
        ["reports, s", f"{r['report_seconds']:.1f}"],
        ["report.csv, MiB", f"{r['table_mib']:.1f}"],
        ["pages; the first, MiB", f"{r['pages']}; {r['first_page_mib']:.1f}"],
        ["the first opens in, ms", "not measured" if opening is None else f"{opening:.0f}"],
        *([f"peak memory of the {name}, MiB", f"{mib:.0f}"] for name, mib in r["peak_mib"].items()),
    ]
    print(table([f"{r['series']} series", ""], rows))
    save_report(r, a.output)


if __name__ == "__main__":
    main()
