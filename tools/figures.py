# SPDX-License-Identifier: Apache-2.0
"""Write the figures of the shipped weights into every page, from ``docs/figures.json``.

A page holds them between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``; ``metadata.json`` has the means in
``eval_metrics``. Given the metrics of three evaluations, the command first remakes ``docs/figures.json``:

    .venv/bin/python -m tools.figures axial=OUT1/metrics.json coronal=OUT2/metrics.json sagittal=OUT3/metrics.json
    .venv/bin/python -m tools.figures
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from scripts.evaluation.pictures import TITLES as METHODS
from scripts.files import write_text

from tools.format_json import formatted
from tools.run_bundle import BUNDLE, ROOT

__all__ = ["collect", "filled", "gains", "with_eval_metrics"]

FIGURES = ROOT / "docs" / "figures.json"
METADATA = BUNDLE / "configs" / "metadata.json"
PAGES = (ROOT / "README.md", ROOT / "docs" / "model_card.md", BUNDLE / "docs" / "README.md")
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)

Figures = dict[str, Any]


def collect(evaluations: dict[str, Path], weights: Path) -> Figures:
    """Figures of the weights from ``metrics.json`` of one evaluation for each direction of the slices.

    Args:
        evaluations: direction (``axial``, ``coronal``, ``sagittal``) to file.
        weights: file of the weights that were evaluated.

    Returns:
        ``model_sha256``, ``facts`` of the evaluations, and ``slices``: direction to head to method to figures.
    """
    found: Figures = {"model_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "facts": {}, "slices": {}}
    for direction, path in evaluations.items():
        metrics = json.loads(path.read_text(encoding="utf-8"))
        found["facts"] |= {name: value for name, value in metrics["facts"].items() if name != "slices"}
        found["slices"][direction] = {
            head: {method: {name: round(rows[method][name], 4) for name in ("psnr", "ssim")} for method in METHODS}
            for head, rows in metrics["cases"].items()
        }
    return found


def gains(figures: Figures) -> dict[str, list[float]]:
    """Gains over cubic interpolation for each head and direction: ``psnr`` in dB, and ``ssim``."""
    rows = [rows for heads in figures["slices"].values() for rows in heads.values()]
    return {name: [row["ours"][name] - row["bicubic"][name] for row in rows] for name in ("psnr", "ssim")}


def _table(figures: Figures) -> str:
    """Table with a line for each head and direction."""
    lines = ["| slices | head | " + " | ".join(METHODS.values()) + " | gain over cubic |", "|---" * 6 + "|"]
    for direction, heads in figures["slices"].items():
        for head, rows in heads.items():
            cells = [f"{rows[method]['psnr']:.2f} / {rows[method]['ssim']:.3f}" for method in METHODS]
            gain = [rows["ours"][name] - rows["bicubic"][name] for name in ("psnr", "ssim")]
            cells[-1] = f"**{cells[-1]}**"
            lines.append(f"| {direction} | {head} | {' | '.join(cells)} | {gain[0]:+.2f} / {gain[1]:+.3f} |")
    return "\n".join(lines) + "\n"


def _means(figures: Figures) -> str:
    """Table with a line for each direction of the slices."""
    lines = ["| slices | " + " | ".join(METHODS.values()) + " | gain over cubic |", "|---" * 5 + "|"]
    for direction, heads in figures["slices"].items():
        value = {m: {n: mean(row[m][n] for row in heads.values()) for n in ("psnr", "ssim")} for m in METHODS}
        cells = [f"{value[method]['psnr']:.2f} / {value[method]['ssim']:.3f}" for method in METHODS]
        gain = [value["ours"][name] - value["bicubic"][name] for name in ("psnr", "ssim")]
        lines.append(f"| {direction} | {' | '.join(cells)} | {gain[0]:+.2f} / {gain[1]:+.3f} |")
    return "\n".join(lines) + "\n"


def _sentence(figures: Figures) -> str:
    """Sentence with the mean gain and its spread."""
    found = gains(figures)
    psnr, heads = found["psnr"], len({head for rows in figures["slices"].values() for head in rows})
    return (
        f"Over {heads} heads, each made thick along three axes, the gain over cubic interpolation is\n"
        f"**{mean(psnr):+.2f} dB** PSNR on average (least {min(psnr):+.2f}, most {max(psnr):+.2f}) and "
        f"{mean(found['ssim']):+.3f} SSIM.\n"
    )


WRITERS: dict[str, Callable[[Figures], str]] = {"table": _table, "means": _means, "sentence": _sentence}


def filled(page: str, figures: Figures) -> str:
    """A page with its blocks of figures written anew.

    Raises:
        ValueError: if a block has an unknown name.
    """

    def write(block: re.Match[str]) -> str:
        if block[2] not in WRITERS:
            raise ValueError(
                f"a block of figures must be one of {', '.join(WRITERS)}, got {block[2]}; correct the page"
            )
        return block[1] + WRITERS[block[2]](figures) + block[4]

    return BLOCK.sub(write, page)


def with_eval_metrics(metadata: str, figures: Figures) -> str:
    """The text of ``metadata.json`` with the means."""
    content = json.loads(metadata)
    found = gains(figures)
    content["eval_metrics"] = {
        "psnr_gain_over_cubic_db": round(mean(found["psnr"]), 2),
        "ssim_gain_over_cubic": round(mean(found["ssim"]), 3),
    }
    return formatted(json.dumps(content, ensure_ascii=False))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="*", metavar="DIRECTION=FILE", help="metrics.json of an evaluation")
    arguments = parser.parse_args()
    if arguments.evaluations:
        named = dict(item.split("=", 1) for item in arguments.evaluations)
        measured = collect({name: Path(path) for name, path in named.items()}, BUNDLE / "models" / "model.pt")
        write_text(FIGURES, json.dumps(measured, indent=4) + "\n")
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8"), figures))
    write_text(METADATA, with_eval_metrics(METADATA.read_text(encoding="utf-8"), figures))


if __name__ == "__main__":
    main()
