# SPDX-License-Identifier: Apache-2.0
"""Whole-volume inference on this machine, as ratios measured side by side in one run.

The volume is a ball of tissue in air, half of each. Against: the loop that a reader of the paper would write (one slice
at a time, PyTorch defaults, both orientations, averaged), MONAI's stock ``SliceInferer``, and the machine's own peak at
the network's convolutions. Every candidate is first checked against the plain loop, in the foreground.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.inferers import SliceInferer
from scripts.inference.engines import ENGINES, Engine
from scripts.inference.inferer import ThroughPlaneInferer
from torch import nn

from tools.run_bundle import BUNDLE

Volume = torch.Tensor


def half_air(rows: int, slices: int, seed: int) -> Volume:
    """``(1, 1, rows, rows, slices)`` in unit range: a ball of texture that fills about half of the volume."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (rows, rows, slices)], indexing="ij"))
    rng = np.random.default_rng(seed)
    # an elliptic cylinder with rounded ends: 0.8 of each in-plane diameter is half of the area
    inside = (grid[0] / 0.8) ** 2 + (grid[1] / 0.8) ** 2 + grid[2] ** 8 < 1
    texture = 0.4 * np.cos(9 * grid[0] + 5 * grid[1]) + 0.1 * rng.standard_normal(inside.shape)
    return torch.from_numpy(np.where(inside, texture, -1.0).astype(np.float32))[None, None]


def plain_loop(volume: Volume, network: nn.Module) -> Volume:
    """One slice at a time, contiguous, both orientations, averaged."""
    scan = volume[0, 0]
    with torch.no_grad():
        first = torch.stack([network(scan[i][None, None])[0, 0] for i in range(scan.shape[0])])
        second = torch.stack([network(scan[:, j][None, None])[0, 0] for j in range(scan.shape[1])], dim=1)
    return ((first + second) / 2)[None, None]


def stock_slices(volume: Volume, network: nn.Module) -> Volume:
    """MONAI's ``SliceInferer``, as it comes, for both orientations."""
    results = []
    for axis in (0, 1):
        size = [n for a, n in enumerate(volume.shape[2:]) if a != axis]
        inferer = SliceInferer(roi_size=size, sw_batch_size=1, spatial_dim=axis, progress=False)
        with torch.no_grad():
            results.append(inferer(volume, network))
    return (results[0] + results[1]) / 2


def ours(engine: str, autocast: str | None, settings: dict[str, object]) -> Callable[[Volume, nn.Module], Volume]:
    """The bundle's inferer with the settings of ``inference.json``."""
    inferer = ThroughPlaneInferer(autocast=autocast, engine=Engine(engine), progress=False, **settings)

    def run(volume: Volume, network: nn.Module) -> Volume:
        return inferer(volume, network)

    return run


def convolution_flops(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Multiply-adds times two of all convolutions in one forward."""
    total = [0.0]

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        kernel = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels / layer.groups
        total[0] += 2 * kernel * output.numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(shape))
    for handle in handles:
        handle.remove()
    return total[0]


def convolution_peak(network: nn.Module, pixels: int, repeats: int) -> float:
    """Best FLOP/s over the network's own 3 x 3 shapes, as single convolutions, and a square GEMM for orientation."""
    best = 0.0
    shapes = {
        (m.in_channels, m.out_channels)
        for m in network.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    }
    side = int(pixels**0.5)
    for channels_in, channels_out in sorted(shapes):
        layer = nn.Conv2d(channels_in, channels_out, 3, padding=1).to(memory_format=torch.channels_last)
        image = torch.randn(1, channels_in, side, side).to(memory_format=torch.channels_last)
        with torch.no_grad():
            layer(image)
            seconds = min(timed(lambda layer=layer, image=image: layer(image)) for _ in range(repeats))
        best = max(best, 2 * 9 * channels_in * channels_out * side * side / seconds)
    return best


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(rows: int, slices: int, repeats: int, seed: int, ckpt_path: Path) -> dict[str, object]:
    """Everything, in turns, so that a slow moment of the machine hits all alike."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"device": "cpu", "ckpt_path": str(ckpt_path), "bundle_root": str(BUNDLE)})
    network = parser.get_parsed_content("network")
    plain = parser.get_parsed_content("network_def")
    plain.load_state_dict(torch.load(ckpt_path, weights_only=True))
    plain.eval()
    settings = {key: parser.get(key) for key in ("scale_factor", "batch_pixels", "halo", "background")}
    candidates: dict[str, Callable[[Volume], Volume]] = {
        "plain loop": lambda volume: plain_loop(volume, plain),
        "SliceInferer": lambda volume: stock_slices(volume, plain),
    }
    for engine in ENGINES:
        run = ours(engine, None, settings)
        candidates[f"ours, {engine}"] = lambda volume, run=run: run(volume, network)
    reduced = ours("torch", "bfloat16", settings)
    candidates["ours, torch, bfloat16"] = lambda volume: reduced(volume, network)

    volume = half_air(rows, slices, seed)
    reference = candidates["plain loop"](volume)
    tissue = torch.nn.functional.interpolate(volume, size=reference.shape[2:], mode="nearest") > float(
        settings["background"]
    )
    results: dict[str, dict[str, float]] = {}
    for name, run in list(candidates.items()):
        difference = (run(volume) - reference)[tissue].abs()
        results[name] = {
            "max_difference_of_range": float(difference.max()) / 2,
            "psnr_to_plain_db": float(10 * torch.log10(4 / difference.square().mean().clamp_min(1e-20))),
        }
    seconds = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            seconds[name].append(timed(lambda run=run: run(volume)))
    base = np.asarray(seconds["plain loop"])
    for name, values in seconds.items():
        results[name]["seconds"] = float(np.median(values))
        results[name]["speed_up"] = float(np.median(base / np.asarray(values)))
    per_pixel = convolution_flops(plain, (1, 1, 32, 32)) / 32**2
    computed = (
        2
        * volume.shape[2]
        * volume.shape[3]
        * volume.shape[4]
        * float((volume > float(settings["background"])).float().mean())
    )
    peak = convolution_peak(plain, int(settings["batch_pixels"]), repeats)
    for name, result in results.items():
        pixels = computed if name.startswith("ours") else 2 * volume.numel()
        result["share_of_convolution_peak"] = per_pixel * pixels / result["seconds"] / peak
    return {
        "volume": [rows, rows, slices],
        "tissue_fraction": float((volume > float(settings["background"])).float().mean()),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "convolution_peak_gflops": peak / 1e9,
        "results": results,
    }


def main() -> None:
    """Command line."""
    arguments_parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments_parser.add_argument("--rows", type=int, default=128)
    arguments_parser.add_argument("--slices", type=int, default=32)
    arguments_parser.add_argument("--repeats", type=int, default=3)
    arguments_parser.add_argument("--seed", type=int, default=0)
    arguments_parser.add_argument("--ckpt-path", type=Path, default=BUNDLE / "models" / "model.pt")
    arguments_parser.add_argument("--output", type=Path, help="JSON file")
    a = arguments_parser.parse_args()
    report = measure(a.rows, a.slices, a.repeats, a.seed, a.ckpt_path)
    print(
        f"{report['volume']}, {report['tissue_fraction']:.2f} tissue, {report['threads']} threads, "
        f"convolution peak {report['convolution_peak_gflops']:.0f} GFLOP/s"
    )
    print("| | seconds | speed-up | share of the peak | largest difference (of the range) |\n|---|---|---|---|---|")
    for name, r in report["results"].items():
        print(
            f"| {name} | {r['seconds']:.2f} | {r['speed_up']:.2f} | {100 * r['share_of_convolution_peak']:.0f} % | "
            f"{r['max_difference_of_range']:.1e} |"
        )
    if a.output:
        a.output.parent.mkdir(parents=True, exist_ok=True)
        a.output.write_text(json.dumps(report, indent=4) + "\n")


if __name__ == "__main__":
    main()
