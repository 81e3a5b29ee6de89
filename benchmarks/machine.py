# SPDX-License-Identifier: Apache-2.0
"""Common parts of all benchmarks: the clock, facts about the machine, commands as whole processes, and tables."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scripts.files import write_json

from tools.run_bundle import BUNDLE

__all__ = [
    "TINY_NETWORK",
    "Process",
    "facts",
    "fit_line",
    "fit_power",
    "in_turns",
    "inference_parser",
    "parser_of",
    "run_process",
    "save_report",
    "save_weights",
    "table",
    "timed",
]

# the peak of a process is never below that of its parent, so a small process must start the command
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code)
"""
TINY_NETWORK = {
    f"network_def::{name}": 1 for name in ("blocks", "layers", "growth", "features", "sets", "thin_features", "hidden")
}


def facts() -> dict[str, Any]:
    """Versions and facts about the machine, without its name; ``None`` for anything that is missing."""
    versions = {name: _version(name) for name in ("torch", "monai", "onnxruntime", "openvino")}
    return {
        "python": platform.python_version(),
        **versions,
        "architecture": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call, including the work of the GPU."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[Callable[[], object]], float] = timed,
) -> dict[str, np.ndarray]:
    """``(repeats,)`` seconds of each call, in the order A B C A B C ..., so that a slow moment affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            seconds[name].append(clock(run))
    return {name: np.asarray(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Process:
    """A finished command."""

    seconds: float
    peak_bytes: int


def run_process(command: Sequence[object]) -> Process:
    """Run a command to its end; the operating system reports its largest resident memory.

    Raises:
        RuntimeError: if its exit code is not 0; the message holds the end of its output.
    """
    started = time.perf_counter()
    words = [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)]
    result = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    output, _, kibibytes = result.stdout.rstrip().rpartition("\n")
    if result.returncode:
        raise RuntimeError(f"exit code must be 0, got {result.returncode}: {output[-2000:]}")
    return Process(time.perf_counter() - started, int(kibibytes) * 1024)


def inference_parser(**ids: Any) -> ConfigParser:
    """``inference.json`` with overridden ids; by default on the CPU."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", "progress": False, **ids})
    return parser


def save_weights(path: Path, **ids: Any) -> Path:
    """Save random weights of the network that ``ids`` describe."""
    torch.manual_seed(0)
    torch.save(inference_parser(**ids).get_parsed_content("network_def").state_dict(), path)
    return path


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """``(slope, intercept)`` of the least-squares line."""
    slope, intercept = np.polyfit(np.asarray(x, dtype=float), np.asarray(y, dtype=float), 1)
    return float(slope), float(intercept)


def fit_power(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent ``a`` of ``y ~ x^a``, as the slope of the least-squares line through the logarithms."""
    return fit_line(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)))[0]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save_report(report: Mapping[str, object], path: Path | None) -> None:
    """Save a report with the facts about the machine; without a path, nothing is saved."""
    if path is None:
        return
    write_json(path, {"machine": facts(), **report})


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Parser with ``--output`` for the JSON file, and ``--threads`` for this process only, not for those it starts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--threads", type=lambda n: torch.set_num_threads(int(n)), help="PyTorch's, default: all cores")
    return parser
