# SPDX-License-Identifier: Apache-2.0
"""Effect of memory format, mixed precision and compilation on the CPU or a GPU.

Measures one training iteration of stage 1 and one forward pass on the configured batch, in turns.

    python -m benchmarks.modes --device cuda:0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.training.autocast import AutocastInferer

from benchmarks.machine import facts, in_turns, parser_of, save_report, table
from tools.run_bundle import BUNDLE


@dataclass(frozen=True)
class Mode:
    """Memory format, precision and compilation of the network."""

    channels_last: bool = True
    autocast: str | None = None
    compiled: bool = False


SCALE_FACTOR = 4  # K of the batch
MODES = {
    "contiguous": Mode(channels_last=False),
    "channels_last": Mode(),
    "channels_last, bfloat16": Mode(autocast="bfloat16"),
    "channels_last, compiled": Mode(compiled=True),
    "channels_last, bfloat16, compiled": Mode(autocast="bfloat16", compiled=True),
}


def steps(mode: Mode, device: str, **ids: Any) -> dict[str, Callable[[], object]]:
    """Functions ``training`` and ``inference`` of one batch in this mode; ids override ``common.json``."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "common.json"))
    parser.update(dict(ids))
    batch, rows, columns = (parser.get_parsed_content(key) for key in ("batch_size", "patch_rows", "patch_columns"))
    operator = SliceProfileOperator(SliceGrid.covering(columns, SCALE_FACTOR))
    told = operator.told(1 / SCALE_FACTOR, device)
    network = parser.get_parsed_content("network_def").to(device)
    if mode.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if mode.compiled:
        network.compile()
    inferer = AutocastInferer(mode.autocast, mode.channels_last)
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.rand(batch, 1, rows, operator.grid.n_slices, device=device) * 2 - 1
    label = torch.rand(batch, 1, rows, columns, device=device) * 2 - 1

    def iteration() -> None:
        optimizer.zero_grad()
        torch.nn.functional.l1_loss(inferer(image, network, *told)[:, :1], label).backward()
        optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            inferer(image, network, *told)

    return {"training": iteration, "inference": forward}


def peak_megabytes(run: Callable[[], object], device: str) -> float | None:
    """Peak GPU memory of one call, or ``None`` on the CPU."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def measure(device: str, names: list[str], repeats: int, **ids: Any) -> dict[str, Any]:
    """Medians in milliseconds, by mode."""
    made = {name: steps(MODES[name], device, **ids) for name in names}
    for step in made.values():  # compiles and warms up, training before inference, so that both graphs exist
        for run in step.values():
            for _ in range(3):
                run()
    report: dict[str, Any] = {name: {} for name in names}
    for kind in ("training", "inference"):
        for name, seconds in in_turns({name: step[kind] for name, step in made.items()}, repeats).items():
            report[name][f"{kind}_ms"] = 1000 * float(np.median(seconds))
    for name, step in made.items():
        report[name]["training_peak_megabytes"] = peak_megabytes(step["training"], device)
    return report


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--network", help="override file, for example network_reproduction.json")
    a = parser.parse_args()
    ids = ConfigParser.load_config_file(str(BUNDLE / "configs" / a.network)) if a.network else {}
    ids.pop("_desc_", None)
    report = measure(a.device, a.modes, a.repeats, **ids)
    print(facts()["gpu"] if a.device != "cpu" else f"{facts()['threads']} threads")
    rows = [
        [name, f"{r['training_ms']:.1f}", f"{r['inference_ms']:.1f}", f"{r['training_peak_megabytes'] or 0:.0f}"]
        for name, r in report.items()
    ]
    print(table(["", "training iteration, ms", "forward, ms", "GPU memory of an iteration, MB"], rows))
    save_report({"device": a.device, "modes": report}, a.output)


if __name__ == "__main__":
    main()
