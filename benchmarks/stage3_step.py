# SPDX-License-Identifier: Apache-2.0
"""CPU-seconds of one iteration of stage 3, at the paper's sizes, with and without a perceptual term.

The perceptual backbones have random weights, because only their cost is measured.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.training.stage3 import JointTrainer
from torchvision.models import squeezenet1_1, vgg16

from benchmarks.machine import parser_of, save_report
from tools.run_bundle import BUNDLE

BACKBONES = {"none": None, "squeezenet": squeezenet1_1, "vgg16": vgg16}

SCALE_FACTOR = 4  # K of the patches


def random_weights(backbone: str, folder: Path) -> str:
    """Write random weights of a backbone; return the file."""
    path = folder / f"{backbone}.pth"
    if not path.exists():
        torch.save(BACKBONES[backbone](weights=None).state_dict(), path)
    return str(path)


def seconds(
    backbone: str, side: int, width: int, batch: int, repeats: int, folder: Path, device: str = "cpu", **ids: Any
) -> dict[str, float]:
    """CPU-seconds and wall-clock seconds of an iteration, as medians over ``repeats`` after one that does not count."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("common.json", "train_stage3.json")])
    settings = {
        "device": device, "citnet_def::width": width, "discriminators_def::width": width,
        "lambda_percep": 0 if backbone == "none" else 1, "perceptual_backbone": backbone, "warmup_iterations": 0,
        "network": "$@network_def.to(@device, memory_format=torch.channels_last)", "stage_iterations": 10, **ids,
    }  # fmt: skip
    if backbone != "none":
        settings["perceptual_weights"] = random_weights(backbone, folder)
    parser.update(settings)
    network, citnet, discriminators = (
        parser.get_parsed_content(name) for name in ("network", "citnet", "discriminators")
    )

    attributes = parser.get("citnet_def")["attribute_channels"]
    torch.manual_seed(0)
    operator = SliceProfileOperator(SliceGrid.covering(side, SCALE_FACTOR))
    positions, condition = (x.expand(batch, -1) for x in operator.told(1 / SCALE_FACTOR))
    thick = torch.rand(batch, 1, side, operator.grid.n_slices) * 2 - 1
    data = {
        "mr_image": thick, "ct_image": thick.flip(2), "ct_label": torch.rand(batch, 1, side, side) * 2 - 1,
        "mr_positions": positions, "mr_condition": condition, "ct_positions": positions, "ct_condition": condition,
        "mr_attribute": torch.randn(batch, attributes), "ct_attribute": torch.randn(batch, attributes),
    }  # fmt: skip
    marks: list[tuple[float, float]] = []
    engine = JointTrainer(
        device=torch.device(device), max_epochs=1, epoch_length=repeats + 1, train_data_loader=[data] * (repeats + 1),
        network=network, citnet=citnet, discriminators=discriminators, optimizer=parser.get_parsed_content("optimizer"),
        discriminator_optimizer=parser.get_parsed_content("discriminator_optimizer"),
        loss_function=parser.get_parsed_content("objective"), autocast=parser.get_parsed_content("autocast"),
    )  # fmt: skip

    engine.add_event_handler(
        Events.ITERATION_STARTED | Events.ITERATION_COMPLETED,
        lambda _: marks.append((time.process_time(), time.perf_counter())),
    )
    engine.run()
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks[2::2], marks[3::2], strict=True)]
    cpu, wall = (sorted(values)[len(values) // 2] for values in zip(*steps, strict=True))
    return {"cpu_seconds": cpu, "wall_seconds": wall}


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", choices=("bfloat16", "float16"))
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            name: seconds(name, a.side, a.width, a.batch, a.repeats, Path(folder), device=a.device, autocast=a.autocast)
            for name in BACKBONES
        }
    print(f"{a.side} x {a.side}, width {a.width}, batch {a.batch}, {a.device}, {torch.get_num_threads()} threads")
    print("| perceptual term | CPU-seconds | seconds |\n|---|---|---|")
    for name, result in results.items():
        print(f"| {name} | {result['cpu_seconds']:.1f} | {result['wall_seconds']:.1f} |")
    save_report(results, a.output)


if __name__ == "__main__":
    main()
