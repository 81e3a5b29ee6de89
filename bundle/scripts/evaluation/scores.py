# SPDX-License-Identifier: Apache-2.0
"""Score every case of an evaluation beside what interpolation alone gives, and write the tables."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from ..data.cases import nifti_stem
from ..geometry import Orientation
from ..networks.rdn import upsample_cubic
from ..transforms.consistency import scan_operator
from .metrics import DEFINITIONS, score_volume

__all__ = ["CaseScores", "interpolations"]


def interpolations(image: MetaTensor, scale_factor: int, profile: str) -> dict[str, np.ndarray]:
    """What needs no network, on the result's own grid and axis order.

    Args:
        image: ``(1, H1, H2, n_slices)``, the oriented thick-slice scan.
        scale_factor: K.
        profile: slice profile of the scan.

    Returns:
        ``bicubic``: cubic along the thick axis; ``bicubic_dc``: the same with exact data consistency.
    """
    acquired = image.as_tensor()
    orientation = Orientation.of(np.asarray(image.meta["original_affine"]).reshape(4, 4), int(image.meta["thick_axis"]))
    cubic = upsample_cubic(acquired, scale_factor)
    consistent = scan_operator(image, scale_factor, profile, None).enforce(cubic[0].clone(), acquired[0])[None]
    return {
        name: orientation.undo(volume)[0].numpy()
        for name, volume in {"bicubic": cubic, "bicubic_dc": consistent}.items()
    }


class CaseScores:
    """Collect the scores of each case; write ``metrics.json`` and ``metrics.csv`` at the end.

    Args:
        output_dir: where the tables go.
        scale_factor: K.
        profile: slice profile of the degradation.
        method: name of the network's row.
        facts: further facts to write into ``metrics.json`` (degradation, weights), JSON types.

    Attributes:
        cases: case name to method to figure to value.
    """

    def __init__(
        self, output_dir: str, scale_factor: int, profile: str, method: str, facts: dict[str, Any] | None = None
    ) -> None:
        self.output_dir = Path(output_dir)
        self.scale_factor = scale_factor
        self.profile = profile
        self.method = method
        self.facts = dict(facts or {})
        self.cases: dict[str, dict[str, dict[str, float]]] = {}
        self.logger = logging.getLogger(type(self).__name__)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches are single cases."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Score the case that has just been done.

        Raises:
            ValueError: if the result does not lie on the grid of the truth.
        """
        (item,) = engine.state.output
        pred, truth, image = item["pred"], item["label"], item["image"]
        difference = np.abs(np.asarray(pred.affine, np.float64) - np.asarray(truth.affine, np.float64)).max()
        if pred.shape != truth.shape or difference > 1e-3:
            raise ValueError(
                f"result must lie on the grid of the truth, got shapes {tuple(pred.shape)} and {tuple(truth.shape)}, "
                f"affines {difference:.3g} mm apart; this is a defect of the bundle"
            )
        thick_axis = int(image.meta["thick_axis"])
        reference = truth.as_tensor()[0].cpu().numpy()
        results = interpolations(image.cpu(), self.scale_factor, self.profile)
        results[self.method] = pred.as_tensor()[0].cpu().float().numpy()
        name = nifti_stem(Path(str(image.meta["filename_or_obj"])))
        self.cases[name] = {method: score_volume(volume, reference, thick_axis) for method, volume in results.items()}
        shown = ", ".join(f"{method} {scores['psnr']:.2f}" for method, scores in self.cases[name].items())
        self.logger.info("%s: PSNR in dB: %s", name, shown)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Method to figure to ``mean`` and ``std`` (sample standard deviation; 0 for one case)."""
        methods = next(iter(self.cases.values()), {})
        result: dict[str, dict[str, dict[str, float]]] = {}
        for method in methods:
            result[method] = {}
            for figure in DEFINITIONS:
                values = np.array([case[method][figure] for case in self.cases.values()])
                spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                result[method][figure] = {"mean": float(values.mean()), "std": spread}
        return result

    def write(self) -> None:
        """Write the tables (whole or not at all) and print the means."""
        if not self.cases:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        content = {
            "definitions": DEFINITIONS,
            "facts": {**self.facts, "torch": torch.__version__},
            "summary": self.summary(),
            "cases": self.cases,
        }
        _replace(self.output_dir / "metrics.json", json.dumps(content, indent=4) + "\n")
        part = self.output_dir / "metrics.csv.part"
        with part.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["case", "method", *DEFINITIONS])
            for case, methods in self.cases.items():
                for method, scores in methods.items():
                    table.writerow([case, method, *(f"{scores[figure]:.6f}" for figure in DEFINITIONS)])
        os.replace(part, self.output_dir / "metrics.csv")
        print(f"\n{'mean of ' + str(len(self.cases)) + ' cases':<24}" + "".join(f"{f:>18}" for f in DEFINITIONS))
        for method, figures in self.summary().items():
            print(f"{method:<24}" + "".join(f"{figures[f]['mean']:>18.4f}" for f in DEFINITIONS))
        for figure, text in DEFINITIONS.items():
            print(f"  {figure}: {text}")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
