# SPDX-License-Identifier: Apache-2.0
"""Time that the viewer takes to show a large result without a graphics card, and memory of its server.

Chromium draws with its software renderer, so a machine with these cores can only be faster.

    python -m benchmarks.viewer
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import psutil
from playwright.sync_api import sync_playwright

from benchmarks.machine import parser_of, save_report, table

FACTOR = 4  # thin slices per acquired slice
TIMEOUT_MS = 900_000
BROWSER = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")
# the pictures are complete when the graphics library has executed all commands
FINISHED = """() => panes.forEach(({ niivue: { gl } }) =>
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)))"""


def write_pair(folder: Path, shape: tuple[int, int, int], seed: int = 0) -> None:
    """Write a 16-bit ellipsoid of noisy tissue and its thick slices. They compress like a real scan."""
    rng = np.random.default_rng(seed)
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < 0.7
    thin = rng.integers(0, 20, shape, dtype=np.int16)
    thin[inside] += 400
    thick = thin.reshape(*shape[:2], shape[2] // FACTOR, FACTOR).mean(axis=3).astype(np.int16)
    affine = np.diag([0.45, 0.45, 0.45, 1.0])
    step = np.diag([1.0, 1.0, FACTOR, 1.0])
    step[2, 3] = (FACTOR - 1) / 2
    for name, array, where in (("sr", thin, affine), ("acquired", thick, affine @ step)):
        nib.save(nib.Nifti1Image(array, where), folder / f"large_{name}.nii.gz")


def measure(folder: Path) -> dict[str, float]:
    """Wall-clock and processor seconds from the click until the acquired slices are shown, and until both are."""
    command = [sys.executable, "-m", "thinslice", "view", str(folder), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    memory = psutil.Process(server.pid).memory_info
    before = peak = memory().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.set_default_timeout(TIMEOUT_MS)
            started, spent = time.perf_counter(), _cpu_seconds()
            page.goto(url)
            page.wait_for_selector("body[data-state=preview], body[data-state=ready]")
            first, first_cpu = time.perf_counter() - started, _cpu_seconds() - spent
            page.wait_for_selector("body[data-state=ready]")
            page.evaluate(FINISHED)
            both, both_cpu = time.perf_counter() - started, _cpu_seconds() - spent
            browser.close()
    finally:
        done.set()
        watcher.join()
        server.kill()
        server.wait()
    return {
        "first_picture_seconds": first,
        "both_volumes_seconds": both,
        "first_picture_cpu_seconds": first_cpu,
        "both_volumes_cpu_seconds": both_cpu,
        "server_before_mib": before / 2**20,
        "server_peak_mib": peak / 2**20,
    }


def _cpu_seconds() -> float:
    """CPU-seconds of all processes of the server and the browser, which hardly depend on other work."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400), help="shape of the result")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    with TemporaryDirectory() as folder:
        write_pair(Path(folder), tuple(a.shape))
        runs = [measure(Path(folder)) for _ in range(a.repeats)]
    report = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    print(table(list(report), [[f"{value:.1f}" for value in report.values()]]))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
