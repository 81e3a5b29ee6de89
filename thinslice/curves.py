# SPDX-License-Identifier: Apache-2.0
"""Draw one picture of a training from TensorBoard events: losses, gain over cubic and gradient norms of all stages."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

matplotlib.use("agg")
from matplotlib import pyplot as plt
from scripts.files import write_json

__all__ = ["draw_curves", "read_curves"]

Curves = dict[str, dict[str, list[list[float]]]]


def read_curves(folder: Path) -> Curves:
    """Scalars under ``OUT/tensorboard``: stage to tag to ``[[iterations], [values]]``."""
    curves: Curves = {}
    for stage in sorted(path for path in folder.iterdir() if path.is_dir()):
        events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
        events.Reload()
        curves[stage.name] = {
            tag: [[event.step for event in events.Scalars(tag)], [event.value for event in events.Scalars(tag)]]
            for tag in events.Tags()["scalars"]
        }
    return curves


def draw_curves(curves: Curves, path: Path) -> None:
    """Draw a row per stage: loss, validation gain, and everything else that the stage logs (terms, gradient norms)."""
    panels = {
        "loss": lambda tag: tag.startswith("loss") and "discriminators" not in tag,
        "gain over cubic, dB": lambda tag: "psnr_gain" in tag,
        "terms": lambda tag: any(tag.endswith(end) for end in ("_mr", "_ct", "ct_l1")) and "accuracy" not in tag,
        "gradient norm at SRNet, per term": lambda tag: tag.startswith("gradient_norm/"),
        "accuracy of the discriminators": lambda tag: "accuracy" in tag,
    }
    figure, axes = plt.subplots(
        len(curves), len(panels), figsize=(3.4 * len(panels), 2.8 * len(curves)), squeeze=False, layout="constrained"
    )
    for line, (stage, tags) in zip(axes, curves.items(), strict=True):
        for axis, (title, belongs) in zip(line, panels.items(), strict=True):
            for tag, (steps, values) in tags.items():
                if belongs(tag) and (title.startswith("gradient") or "gradient" not in tag):
                    axis.plot(steps, _smooth(np.asarray(values)), lw=1, label=tag.rsplit("/", 1)[-1])
            axis.set_title(f"{stage}: {title}", fontsize=8)
            axis.tick_params(labelsize=7)
            if axis.lines:
                axis.legend(fontsize=5)
                if "norm" in title:
                    axis.set_yscale("log")
            else:
                axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over about a fiftieth of the curve."""
    width = max(1, len(values) // 50)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def main() -> None:
    """Command line: ``python -m thinslice.curves --output OUT`` after or during a training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="output_dir of the training")
    arguments = parser.parse_args()
    curves = read_curves(arguments.output / "tensorboard")
    draw_curves(curves, arguments.output / "curves.png")
    write_json(arguments.output / "curves.json", curves, indent=None)
    print(arguments.output / "curves.png")


if __name__ == "__main__":
    main()
