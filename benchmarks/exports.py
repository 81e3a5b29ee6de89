# SPDX-License-Identifier: Apache-2.0
"""Agreement and speed of one network with four engines on real slices.

The slices of a scan contain the thick axis, as in the inferer. Every engine gets the same batches in turns, so that
other work on the machine slows all engines alike. Prints a Markdown table.

    python -m benchmarks.exports --input <NIfTI file or folder of one DICOM series>
"""

from __future__ import annotations

import argparse
import importlib
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scripts.inference.engines import ENGINES, Engine
from scripts.training.weights import load_weights
from torch import nn

from benchmarks.inference import told
from tools.run_bundle import BUNDLE

__all__ = ["figures", "scan_slices", "table"]


def parser_of(bundle: Path = BUNDLE) -> ConfigParser:
    """``inference.json``."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    return parser


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scan_slices(scan: Path, count: int) -> tuple[Inputs, float]:
    """Slices of a scan as inputs of SRNet, and the scanner units per unit of the unit range.

    The ``(count, 1, H, n_slices)`` images are evenly spread over the middle half of the scan.
    """
    parser = parser_of()
    image = parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"]
    volume = image.as_tensor()[0]
    middle = np.linspace(0.25, 0.75, count) * (volume.shape[0] - 1)
    slices = volume[np.unique(middle.round().astype(int))][:, None].contiguous()
    inputs = (slices, *told(image, parser.get_parsed_content("slice_profile"), 0))
    return inputs, (image.meta["intensity_high"] - image.meta["intensity_low"]) / 2


def shipped_network() -> nn.Module:
    """SRNet with the shipped weights, in the memory format of ``inference.json``."""
    network = parser_of().get_parsed_content("network_def").to(memory_format=torch.channels_last).eval()
    return load_weights(network, str(BUNDLE / "models" / "model.pt")).requires_grad_(False)


def timed(compute: Callable[..., torch.Tensor], inputs: Inputs) -> tuple[torch.Tensor, float]:
    """Result of a call, and its seconds."""
    started = time.perf_counter()
    result = compute(*inputs)
    return result, time.perf_counter() - started


def figures(network: nn.Module, inputs: Inputs, rounds: int) -> list[dict[str, Any]]:
    """One row per engine: seconds of the conversion, fewest seconds per batch, and largest difference from PyTorch."""
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        expected = network(*inputs)
        computes = {}
        for name in ENGINES:
            started = time.perf_counter()
            computes[name] = Engine(name)(network)
            converting = time.perf_counter() - started
            error = float((computes[name](*inputs) - expected).abs().max())  # also warms the engine up
            computes[name](*inputs)
            rows.append({"engine": name, "convert": converting, "error": error, "seconds": []})
        for _ in range(rounds):
            for row in rows:
                row["seconds"].append(timed(computes[row["engine"]], inputs)[1])
    for row in rows:
        row["seconds"] = min(row["seconds"])  # the fastest round was least disturbed by other work
    return rows


def table(rows: list[dict[str, Any]], per_unit: float) -> str:
    """Markdown."""
    versions = {
        name: importlib.import_module(name.split("script")[0]).__version__.split("+")[0].split("-")[0]
        for name in ENGINES
    }
    lines = ["| engine | version | conversion, s | per batch, s | times PyTorch | largest difference, of [-1, 1] |"]
    lines[0] += " in scanner units |"
    lines.append("|" + "---|" * 7)
    for row in rows:
        name = row["engine"]
        lines.append(
            f"| `{name}` | {versions[name]} | {row['convert']:.1f} | {row['seconds']:.3f} "
            f"| {rows[0]['seconds'] / row['seconds']:.2f} | {row['error']:.1e} | {row['error'] * per_unit:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    inputs, per_unit = scan_slices(arguments.input, arguments.slices)
    rows = figures(shipped_network(), inputs, arguments.rounds)
    shape = " x ".join(map(str, inputs[0].shape))
    print(
        f"Batch {shape}, {arguments.threads} thread(s), fastest of {arguments.rounds} rounds, {platform.machine()}.\n"
    )
    print(table(rows, per_unit))


if __name__ == "__main__":
    main()
