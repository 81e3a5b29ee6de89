# SPDX-License-Identifier: Apache-2.0
"""Whole-volume inference on a GPU in milliseconds, with volume and result in its memory and all candidates in turns.

Differences are those to the same network on the CPU in the foreground, as a share of the range of intensities. By
default, cuDNN computes float32 convolutions in TF32 (``torch.backends.cudnn.allow_tf32``). Both are measured.

    python -m benchmarks.gpu --rows 256 --slices 48
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from scripts.inference.inferer import ThroughPlaneInferer
from torch import nn

from benchmarks.inference import agreement, half_air, inferer_settings, plain_loop, thin_tissue
from benchmarks.machine import facts, in_turns, inference_parser, parser_of, save_report, table
from tools.run_bundle import BUNDLE, accept_overrides

PRECISIONS = {  # name: (autocast, TF32)
    "float32": (None, False),
    "float32, TF32": (None, True),
    "bfloat16": ("bfloat16", True),
    "float16": ("float16", True),
}


def measure(
    rows: int, slices: int, repeats: int, seed: int, ckpt_path: Path, device: str, **ids: Any
) -> dict[str, Any]:
    """Fewest milliseconds, largest difference, and speed-up over the plain loop on the same GPU, by candidate."""
    volume = half_air(rows, slices, seed)
    on_cpu = inference_parser(ckpt_path=str(ckpt_path))
    inferer = ThroughPlaneInferer(**inferer_settings(on_cpu), progress=False)
    reference = inferer(volume, on_cpu.get_parsed_content("network"))
    parser = inference_parser(ckpt_path=str(ckpt_path), device=device, **ids)
    network: nn.Module = parser.get_parsed_content("network")
    placed = MetaTensor(volume.as_tensor().to(device), meta=volume.meta)
    settings = inferer_settings(parser)
    tissue = thin_tissue(volume, settings["background"], settings["profile"])

    def candidate(run: Callable[[], torch.Tensor], tf32: bool) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            torch.backends.cudnn.allow_tf32 = tf32
            return run()

        return call

    candidates = {"plain loop, float32": candidate(lambda: plain_loop(placed, network, settings["profile"]), False)}
    for name, (autocast, tf32) in PRECISIONS.items():
        inferer = ThroughPlaneInferer(**settings, autocast=autocast, progress=False)
        candidates[f"ours, {name}"] = candidate(partial(inferer, placed, network), tf32)
    results: dict[str, dict[str, float]] = {}
    for name, run in candidates.items():
        difference, psnr = agreement(run().cpu(), reference, tissue)
        results[name] = {"max_difference_of_range": difference, "psnr_to_cpu_db": psnr}
    for name, seconds in in_turns(candidates, repeats).items():
        results[name]["milliseconds"] = 1000 * float(seconds.min())
    for result in results.values():
        result["speed_up"] = results["plain loop, float32"]["milliseconds"] / result["milliseconds"]
    return {"volume": [rows, rows, slices], "results": results}


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ckpt-path", type=Path, default=BUNDLE / "models" / "model.pt")
    parser.add_argument("--device", default="cuda:0")
    accept_overrides(parser)
    a = parser.parse_args()
    report = measure(a.rows, a.slices, a.repeats, a.seed, a.ckpt_path, a.device, **dict(a.set))
    print(f"{a.rows} x {a.rows} x {a.slices}, {facts()['gpu'] or 'CPU'}")
    rows = [
        [
            name,
            f"{r['milliseconds']:.1f}",
            f"{r['speed_up']:.1f}",
            f"{r['max_difference_of_range']:.1e}",
            f"{r['psnr_to_cpu_db']:.0f}",
        ]
        for name, r in report["results"].items()
    ]
    print(table(["", "ms", "speed-up", "largest difference to the CPU", "PSNR to the CPU, dB"], rows))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
