# SPDX-License-Identifier: Apache-2.0
"""Compare sizes of the network: quality on held-out training subjects against speed.

Every size is trained by the shipped recipe for the same number of iterations. Quality is the last validation of stage
2: the gain over cubic on the person whom ``make model`` holds out. Test volumes are not used. Speed is measured for all
sizes in turns on the same batch. A finished training is not repeated.

    python -m studies.sizes --data <folder with MANIFEST.csv> --output OUT --iterations 300 1200
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.files import write_json
from scripts.geometry import SliceGrid
from scripts.networks.srnet import SRNet

from thinslice.curves import read_curves
from tools.make_model import RECIPE, prepare, train_stage
from tools.run_bundle import BUNDLE, ROOT, accept_overrides

matplotlib.use("agg")
from matplotlib import pyplot as plt

SIZES = ROOT / "studies" / "sizes.json"
SCALE_FACTOR = 4  # K for the measurement of speed
METRIC = "psnr_gain_over_cubic_db"


def last_gain_db(output: Path) -> float:
    """Last validation of stage 2, in dB over cubic."""
    curves = read_curves(output / "tensorboard")["stage2"]
    (tag,) = [tag for tag in curves if tag.endswith(METRIC)]
    return float(curves[tag][1][-1])


def seconds_per_megapixel(networks: dict[str, SRNet], rounds: int) -> dict[str, float]:
    """Median seconds per million LR pixels, measured for all sizes in turns on one batch of thick slices."""
    operator = SliceProfileOperator(SliceGrid.over_slab(48, SCALE_FACTOR))
    told = operator.told(1 / SCALE_FACTOR)
    batch = torch.randn(4, 1, 128, 48).to(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, network in networks.items():
                started = time.perf_counter()
                network(batch, *told)
                if turn:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) / batch.numel() * 1e6 for name, values in seconds.items()}


def main() -> None:
    """Train, measure, and write ``sizes.md``, ``sizes.json`` and ``sizes.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--sizes", type=Path, default=SIZES)
    parser.add_argument("--iterations", type=int, nargs=2, default=(300, 1200), help="of stage 1 and 2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    accept_overrides(parser)
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    datalist = prepare([arguments.data], output / "data")
    sizes = {name: size for name, size in json.loads(arguments.sizes.read_text()).items() if name != "_desc_"}
    shape = json.loads((BUNDLE / "configs" / "common.json").read_text())["network_def"]
    del shape["_target_"]
    networks = {
        name: SRNet(**{**shape, **size}).to(memory_format=torch.channels_last).eval() for name, size in sizes.items()
    }
    ids = dict(arguments.set)
    rows = {}
    for name, size in sizes.items():
        for stage, count in enumerate(arguments.iterations, start=1):
            if not (output / name / f"stage{stage}.pt").exists():
                settings = {
                    "val_interval": count,
                    **ids,
                    **{f"network_def::{key}": value for key, value in size.items()},
                }
                train_stage(
                    stage, count, output / "data", datalist, output / name, arguments.recipe, arguments.seed, **settings
                )
        rows[name] = {
            "parameters": sum(p.numel() for p in networks[name].parameters()),
            "gain_db": last_gain_db(output / name),
        }
    for name, seconds in seconds_per_megapixel(networks, arguments.rounds).items():
        rows[name]["seconds_per_megapixel"] = seconds
        # a scan of 256 x 256 x 48 has 3.1 million LR pixels, and both orientations see all of them
        rows[name]["seconds_per_scan"] = seconds * 2 * 256 * 256 * 48 / 1e6
    write_json(output / "sizes.json", rows)
    lines = ["| size | parameters | gain on held-out subject, dB | seconds for 256 x 256 x 48 |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {r['parameters']:,} | {r['gain_db']:+.2f} | {r['seconds_per_scan']:.0f} |"
        for name, r in rows.items()
    ]
    (output / "sizes.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axis.plot([r["seconds_per_scan"] for r in rows.values()], [r["gain_db"] for r in rows.values()], "o-")
    for name, r in rows.items():
        axis.annotate(f" {name}", (r["seconds_per_scan"], r["gain_db"]), va="top")
    axis.set(xscale="log", xlabel="seconds for 256 x 256 x 48, no air skipped", ylabel="gain over cubic, dB")
    figure.savefig(output / "sizes.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
