# SPDX-License-Identifier: Apache-2.0
"""Whole-volume inference on this machine, as ratios measured side by side in one run.

The volume is a textured head in air, with half of the voxels each. Our inferer is compared with the loop that a reader
of the paper would write (one slice at a time, PyTorch defaults, averaged over both orientations), with MONAI's own
``SliceInferer``, and with the machine's peak performance at the network's convolutions. The result of every candidate
is first compared with that of the plain loop in the foreground.

    python -m benchmarks.inference --rows 128 --slices 24
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.inference.engines import ENGINES, Engine
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.transforms.consistency import scan_operator
from scripts.transforms.orient import working_spacing_mm
from torch import nn

from benchmarks.machine import facts, in_turns, inference_parser, parser_of, save_report, table
from tools.run_bundle import BUNDLE

SETTINGS = ("batch_pixels", "window_pixels", "halo", "background", "air_margin")
SCALE_FACTOR = 4.0  # K for the made-up head
PEAK_SECONDS = 0.3  # a processor is faster in a burst than over the seconds of a scan


def as_scan(volume: torch.Tensor, scale_factor: float = SCALE_FACTOR) -> MetaTensor:
    """``(1, 1, H1, H2, n_slices)`` with its grid: pixels and thin slices of 1 mm, and thick slices that touch."""
    meta = {
        "working_spacing_mm": np.array([1.0, 1.0, scale_factor]), "slice_thickness_mm": scale_factor,
        "scale_factor": scale_factor,
    }  # fmt: skip
    return MetaTensor(volume, meta=meta)


def told(volume: MetaTensor, profile: str, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and condition for the images of a scan along in-plane axis ``side``."""
    operator, spacing_mm = scan_operator(volume, profile, None), working_spacing_mm(volume)
    return operator.told(float(spacing_mm[1 - side] / spacing_mm[2]), volume.device)


def thin_tissue(volume: MetaTensor, background: float, profile: str) -> torch.Tensor:
    """Mask of the tissue in thin slices, taken from the nearest thick slices."""
    nearest = torch.from_numpy(scan_operator(volume, profile, None).grid.nearest_slices)
    return (volume.as_tensor() > background)[..., nearest.to(volume.device)]


def half_air(rows: int, slices: int, seed: int) -> MetaTensor:
    """``(1, 1, rows, rows, slices)`` in unit range: a textured elliptic cylinder with rounded ends, in noisy air."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (rows, rows, slices)], indexing="ij"))
    rng = np.random.default_rng(seed)
    inside = (grid[0] / 0.92) ** 2 + (grid[1] / 0.85) ** 2 + grid[2] ** 8 < 1
    texture = 0.4 * np.cos(9 * grid[0] + 5 * grid[1]) + 0.1 * rng.standard_normal(inside.shape)
    air = np.abs(0.008 * rng.standard_normal(inside.shape)) - 1
    return as_scan(torch.from_numpy(np.where(inside, texture, air).astype(np.float32))[None, None])


def own_scan(path: Path) -> MetaTensor:
    """A thick scan, preprocessed as in ``inference.json``: ``(1, 1, H1, H2, n_slices)`` in unit range."""
    (item,) = inference_parser(dataset_dir=str(path)).get_parsed_content("dataset")
    return item["image"][None].float()


def plain_loop(volume: MetaTensor, network: nn.Module, profile: str) -> torch.Tensor:
    """One contiguous slice at a time, averaged over both orientations."""
    scan, (rows, columns) = volume.as_tensor()[0, 0], (told(volume, profile, side) for side in (0, 1))
    with torch.no_grad():
        first = torch.stack([network(scan[i][None, None], *rows)[0, 0] for i in range(scan.shape[0])])
        second = torch.stack([network(scan[:, j][None, None], *columns)[0, 0] for j in range(scan.shape[1])], dim=1)
    return ((first + second) / 2)[None, None]


def stock_slices(volume: MetaTensor, network: nn.Module, profile: str) -> torch.Tensor:
    """MONAI's ``SliceInferer`` with its defaults, for both orientations."""
    results: list[torch.Tensor] = []
    for axis in (0, 1):
        size = [n for a, n in enumerate(volume.shape[2:]) if a != axis]
        acquisition = told(volume, profile, axis)
        inferer = SliceInferer(roi_size=size, sw_batch_size=1, spatial_dim=axis, progress=False)
        with torch.no_grad():
            found = inferer(volume.as_tensor(), lambda image, told=acquisition: network(image, *told)[:, :1])
            results.append(torch.as_tensor(found))
    return (results[0] + results[1]) / 2


def inferer_settings(parser: ConfigParser) -> dict[str, Any]:
    """Settings of the inferer in ``inference.json``, which all our candidates share."""
    return {"profile": parser.get_parsed_content("slice_profile")} | {
        key: parser.get_parsed_content(key) for key in SETTINGS
    }


def agreement(found: torch.Tensor, reference: torch.Tensor, tissue: torch.Tensor) -> tuple[float, float]:
    """Largest difference in the foreground as a share of the range (which is 2), and PSNR in dB."""
    difference = (found - reference)[tissue].abs()
    psnr = 10 * torch.log10(4 / difference.square().mean().clamp_min(1e-20))
    return float(difference.max()) / 2, float(psnr)


def computed_pixels(volume: MetaTensor, settings: dict[str, Any]) -> int:
    """Number of pixels that our inferer gives to the network, including margins, halos and padding of batches."""
    seen = []

    def count(image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        seen.append(image.numel())
        return image.new_zeros((*image.shape[:3], len(positions)))

    ThroughPlaneInferer(**settings, progress=False)(volume, count)
    return sum(seen)


def convolution_flops(network: nn.Module, shape: tuple[int, ...]) -> float:
    """FLOP of all convolutions in one forward pass at :data:`SCALE_FACTOR`; a multiply-add counts as two."""
    total = [0.0]

    def count(layer: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        kernel = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels / layer.groups
        total[0] += 2 * kernel * output.numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        operator = SliceProfileOperator(SliceGrid.over_slab(shape[-1], SCALE_FACTOR))
        network(torch.zeros(shape), *operator.told(1 / SCALE_FACTOR))
    for handle in handles:
        handle.remove()
    return total[0]


def _repeat(layer: nn.Module, image: torch.Tensor) -> None:
    for _ in range(5):
        layer(image)


def peak_operations(network: nn.Module, pixels: int) -> dict[str, Callable[[], object]]:
    """The network's 3 x 3 convolutions, one at a time, and a GEMM; keys ``<name> <FLOP>``."""
    operations: dict[str, Callable[[], object]] = {}
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    side = int(pixels**0.5)
    for channels_in, channels_out in sorted({(m.in_channels, m.out_channels) for m in convolutions}):
        layer = nn.Conv2d(channels_in, channels_out, 3, padding=1).to(memory_format=torch.channels_last)
        layer.requires_grad_(False)
        image = torch.randn(1, channels_in, side, side).to(memory_format=torch.channels_last)
        flops = 2 * 9 * channels_in * channels_out * side * side
        operations[f"convolution {flops}"] = partial(_repeat, layer, image)
    matrix = torch.randn(1024, 1024)
    operations[f"gemm {2 * 1024**3}"] = lambda: [matrix @ matrix for _ in range(5)]
    return operations


def sustained(run: Callable[[], object]) -> float:
    """Seconds per call, as a mean over :data:`PEAK_SECONDS`."""
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < PEAK_SECONDS:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


def peaks(network: nn.Module, pixels: int, repeats: int) -> dict[str, float]:
    """FLOP/s that the machine sustains: the best of the network's own ``convolution`` shapes, and ``gemm``."""
    operations = peak_operations(network, pixels)
    best: dict[str, float] = {}
    for name, values in in_turns(operations, repeats, sustained).items():
        kind, flops = name.split()
        best[kind] = max(best.get(kind, 0.0), 5 * float(flops) / float(np.median(values)))
    return best


def contenders(
    ckpt_path: Path, volume: MetaTensor, engines: Sequence[str]
) -> tuple[dict[str, Callable[[], torch.Tensor]], nn.Module, dict]:
    """Candidates by name, each of which computes the whole result; the plain network; our settings."""
    parser = inference_parser(ckpt_path=str(ckpt_path))
    network = parser.get_parsed_content("network")
    plain = inference_parser().get_parsed_content("network_def")  # contiguous, as PyTorch makes it
    plain.load_state_dict(torch.load(ckpt_path, weights_only=True))
    plain.eval()
    settings = inferer_settings(parser)
    candidates: dict[str, Callable[[], torch.Tensor]] = {
        "plain loop": lambda: plain_loop(volume, plain, settings["profile"]),
        "SliceInferer": lambda: stock_slices(volume, plain, settings["profile"]),
    }
    for engine in engines:
        inferer = ThroughPlaneInferer(**settings, engine=Engine(engine), progress=False)
        candidates[f"ours, {engine}"] = partial(inferer, volume, network)
    reduced = ThroughPlaneInferer(**settings, autocast="bfloat16", progress=False)
    candidates["ours, torch, bfloat16"] = lambda: reduced(volume, network)
    return candidates, plain, settings


def measure(volume: MetaTensor, repeats: int, ckpt_path: Path, engines: Sequence[str] = ENGINES) -> dict[str, Any]:
    """Medians of all candidates, measured in turns on ``(1, 1, H1, H2, n_slices)``."""
    candidates, plain, settings = contenders(ckpt_path, volume, engines)
    reference = candidates["plain loop"]()
    tissue = thin_tissue(volume, settings["background"], settings["profile"])
    results: dict[str, dict[str, float]] = {}
    for name, run in candidates.items():  # also converts and warms up
        difference, psnr = agreement(run(), reference, tissue)
        results[name] = {"max_difference_of_range": difference, "psnr_to_plain_db": psnr}
    before = peaks(plain, settings["batch_pixels"], repeats)
    seconds = in_turns(candidates, repeats)
    after = peaks(plain, settings["batch_pixels"], repeats)
    peak = {kind: (before[kind] + after[kind]) / 2 for kind in before}
    per_pixel = convolution_flops(plain, (1, 1, 32, 32)) / 32**2
    ours = computed_pixels(volume, settings)
    for name, result in results.items():
        pixels = ours if name.startswith("ours") else 2 * volume.numel()
        result["seconds"] = float(np.median(seconds[name]))
        result["speed_up"] = float(np.median(seconds["plain loop"] / seconds[name]))
        result["gflops"] = per_pixel * pixels / result["seconds"] / 1e9
        result["share_of_convolution_peak"] = 1e9 * result["gflops"] / peak["convolution"]
    return {
        "volume": list(volume.shape[2:]),
        "tissue_fraction": float((volume > settings["background"]).float().mean()),
        "computed_fraction": ours / (2 * volume.numel()),
        "flops_per_pixel": per_pixel,
        "convolution_peak_gflops": peak["convolution"] / 1e9,
        "gemm_peak_gflops": peak["gemm"] / 1e9,
        "results": results,
    }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--scan", type=Path, help="a thick scan of your own, instead of the made-up head")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ckpt-path", type=Path, default=BUNDLE / "models" / "model.pt")
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    a = parser.parse_args()
    started = time.perf_counter()
    volume = half_air(a.rows, a.slices, a.seed) if a.scan is None else own_scan(a.scan)
    report = measure(volume, a.repeats, a.ckpt_path, a.engines)
    print(
        f"{' x '.join(map(str, report['volume']))}, {report['tissue_fraction']:.2f} tissue, "
        f"{report['computed_fraction']:.2f} computed, {facts()['threads']} threads; "
        f"peak {report['convolution_peak_gflops']:.0f} GFLOP/s (convolution), "
        f"{report['gemm_peak_gflops']:.0f} (GEMM); {time.perf_counter() - started:.0f} s"
    )
    header = ["", "seconds", "speed-up", "GFLOP/s", "share of the peak", "largest difference", "PSNR to plain, dB"]
    rows = [
        [
            name,
            f"{r['seconds']:.2f}",
            f"{r['speed_up']:.2f}",
            f"{r['gflops']:.0f}",
            f"{100 * r['share_of_convolution_peak']:.0f} %",
            f"{r['max_difference_of_range']:.1e}",
            f"{r['psnr_to_plain_db']:.0f}",
        ]
        for name, r in report["results"].items()
    ]
    print(table(header, rows))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
