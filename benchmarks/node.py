# SPDX-License-Identifier: Apache-2.0
"""Cost of receiving in the DICOM node, relative to the time of the batch for the same series.

``storescu`` of dcmtk sends made-up heads to ``thinslice serve``, which is set to wait for an hour before it processes
them, so that only receiving is measured. The figures are the time until the last image is answered with success (image
and ledger are then on the disk), and the processor time of the node. Then the batch processes the same series. Its
start is left out, which would only improve the ratio.

    python -m benchmarks.node
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine import parser_of, run_process, save_report, table
from phantom.anatomy import make_anatomy
from phantom.dicom import write_series
from phantom.patient import mr_image
from tools.dcmtk import dcmtk
from tools.run_bundle import bundle_command

START_SECONDS = 120
RULES = {"complete": {"stable_seconds": 3600}, "disk": {"free_gib": 0}}


def measure(series: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Seconds per series.

    Raises:
        FileNotFoundError: if dcmtk is not installed.
        RuntimeError: if a program fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        affine = np.diag([*spacing_mm, 1.0])
        for seed in range(series):
            write_series(
                folder / "in" / str(seed), mr_image(make_anatomy(seed, shape, spacing_mm), seed), affine, seed=seed
            )
        receiving, processor = _receive(folder)
        batch = _batch(folder)
    return {
        "series": series,
        "receiving_seconds": receiving / series,
        "processor_seconds": processor / series,
        "batch_seconds": batch / series,
        "receiving_ratio": receiving / batch,
        "processor_ratio": processor / batch,
    }


def _receive(folder: Path) -> tuple[float, float]:
    """Seconds until everything is received, and the processor seconds of the node in this time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "rules.json").write_text(json.dumps(RULES))
    words = [sys.executable, "-m", "thinslice", "serve", "--aet", "THIN", "--address", "127.0.0.1", "--port", str(port)]
    words += ["--http-port", "0", "--send-to", "PACS@127.0.0.1:9", "--accept", "SCANNER", "--spool"]
    words += [str(folder / "spool"), "--rules", str(folder / "rules.json")]
    call = ["-aet", "SCANNER", "-aec", "THIN"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as node:
        try:
            deadline = time.monotonic() + START_SECONDS
            while subprocess.run(
                [dcmtk("echoscu"), *call, "127.0.0.1", str(port)], capture_output=True, check=False
            ).returncode:
                if node.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the node must start, but does not; run thinslice serve by hand")
                time.sleep(0.5)
            before, started = psutil.Process(node.pid).cpu_times(), time.perf_counter()
            subprocess.run(
                [dcmtk("storescu"), *call, "+sd", "+r", "127.0.0.1", str(port), str(folder / "in")], check=True
            )
            seconds, after = time.perf_counter() - started, psutil.Process(node.pid).cpu_times()
        finally:
            node.terminate()
    return seconds, after.user + after.system - before.user - before.system


def _batch(folder: Path) -> float:
    """Seconds that the batch needs for all series, once it has started."""
    command = bundle_command(["batch_dicom.json"], dataset_dir=folder / "in", output_dir=folder / "out", progress=False)
    run_process(command)
    return sum(one["seconds"] for one in json.loads((folder / "out" / "report.json").read_text())["series"])


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--series", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 30))
    parser.add_argument("--spacing-mm", type=float, nargs=3, default=(0.9, 0.9, 4.5))
    a = parser.parse_args()
    report = measure(a.series, tuple(a.shape), tuple(a.spacing_mm))
    print(table(list(report), [[f"{value:.3g}" for value in report.values()]]))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
