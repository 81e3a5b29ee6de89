# SPDX-License-Identifier: Apache-2.0
"""Score every case of an evaluation and interpolation without a network; write the tables and pictures."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from ..files import whole, write_json
from ..geometry import Orientation, voxel_spacing_mm
from ..networks.interpolation import interpolate_cubic
from ..transforms.consistency import scan_operator
from .lpips import SliceLPIPS, find_alexnet
from .metrics import DEFINITIONS, score_volume
from .pictures import draw_case
from .resolution import THROUGH_PLANE_DEFINITIONS, score_through_plane

__all__ = ["CaseScores", "interpolations", "save_volume"]


def interpolations(image: MetaTensor, profile: str) -> dict[str, np.ndarray]:
    """Results of interpolation without a network, on the grid and in the axis order of the result.

    Args:
        image: ``(1, H1, H2, n_slices)``, the oriented thick-slice scan with K in its meta data.
        profile: slice profile of the scan.

    Returns:
        ``bicubic``: cubic along the thick axis; ``bicubic_dc``: the same with exact data consistency.
    """
    acquired = image.as_tensor()
    orientation = Orientation.of(np.asarray(image.meta["original_affine"]).reshape(4, 4), int(image.meta["thick_axis"]))
    operator = scan_operator(image, profile, None)
    cubic = interpolate_cubic(acquired, operator.grid.positions_tensor())
    consistent = operator.enforce(cubic[0].clone(), acquired[0])[None]
    return {
        name: orientation.undo(volume)[0].numpy()
        for name, volume in {"bicubic": cubic, "bicubic_dc": consistent}.items()
    }


Table = dict[str, dict[str, dict[str, float | None]]]  # case, method, figure
Summary = dict[str, dict[str, dict[str, float | None]]]  # method, figure, mean and std


def save_volume(path: Path, volume: np.ndarray, affine_ras: np.ndarray) -> None:
    """Write ``(I, J, K)`` as float32 NIfTI, completely or not at all."""
    with whole(path) as part:
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine_ras), part)


class CaseScores:
    """Collect the scores of each case; write ``metrics.json``, ``metrics.csv`` and pictures.

    Args:
        output_dir: folder for the tables and ``pictures/<case>.png``.
        profile: slice profile of the degradation.
        method: name of the network's row.
        facts: further facts to write into ``metrics.json`` (degradation, weights), JSON types.
        lpips_weights: torchvision's AlexNet, see :func:`scripts.evaluation.lpips.find_alexnet`; without it the column
            is empty and the reason is stated.
        lpips_batch_pixels: pixels of one forward pass of LPIPS.
        device: device for LPIPS.
        pictures: draw each case.
        volumes: write every result, and the truth, as ``volumes/<case>/<method>.nii.gz``, for any other figure.

    Attributes:
        cases: case name to method to figure to value, ``None`` where it cannot be computed.
        through_plane: the same for the figures along the thick axis, with a further row ``truth``.

    Raises:
        FileNotFoundError, ValueError: if ``lpips_weights`` names no file or one that does not fit.
    """

    def __init__(
        self,
        output_dir: str,
        profile: str,
        method: str,
        facts: dict[str, Any] | None = None,
        lpips_weights: str | None = None,
        lpips_batch_pixels: int = 2**16,
        device: str | torch.device = "cpu",
        pictures: bool = True,
        volumes: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.profile = profile
        self.method = method
        self.facts = dict(facts or {})
        self.pictures = pictures
        self.volumes = volumes
        path, self._no_weights = find_alexnet(lpips_weights)
        self.lpips = None if path is None else SliceLPIPS(str(path), lpips_batch_pixels, device)
        self._too_small: list[str] = []
        self.cases: Table = {}
        self.through_plane: Table = {}
        self.logger = logging.getLogger(type(self).__name__)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches are single cases."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Score the case that has just been processed.

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
        affine = np.asarray(truth.affine, np.float64).reshape(4, 4)
        spacing = voxel_spacing_mm(affine)
        reference = truth.as_tensor()[0].cpu().numpy()
        results = interpolations(image.cpu(), self.profile)
        results[self.method] = pred.as_tensor()[0].cpu().float().numpy()
        name = str(image.meta["filename_or_obj"]).removesuffix(".nii.gz")
        if self.lpips is not None and (reason := self.lpips.refusal(reference.shape, thick_axis)):
            self._too_small.append(reason)
        self.cases[name] = {
            method: score_volume(volume, reference, thick_axis, lpips=self.lpips) for method, volume in results.items()
        }
        self.through_plane[name] = {
            method: _finite(
                score_through_plane(volume, reference, spacing, thick_axis, float(image.meta["scale_factor"]))
            )
            for method, volume in {**results, "truth": reference}.items()
        }
        shown = ", ".join(f"{method} {scores['psnr']:.2f}" for method, scores in self.cases[name].items())
        self.logger.info("%s: PSNR in dB: %s", name, shown)
        if self.volumes:
            for method, volume in {**results, "truth": reference}.items():
                save_volume(self.output_dir / "volumes" / name / f"{method}.nii.gz", volume, affine)
        if self.pictures:
            acquired = Orientation.of(affine, thick_axis).undo(image.cpu().as_tensor())[0].numpy()
            found = {method: figures["psnr"] for method, figures in self.cases[name].items()}
            draw_case(
                self.output_dir / "pictures" / f"{name}.png", acquired, results, reference, thick_axis, affine,
                {method: psnr for method, psnr in found.items() if psnr is not None}, image.meta.get("slice_axis"),
            )  # fmt: skip

    @property
    def lpips_reason(self) -> str | None:
        """Why ``lpips`` is empty for all or some cases; ``None`` if it is not."""
        if self.lpips is None:
            return self._no_weights
        if not self._too_small:
            return None
        return f"{len(self._too_small)} of {len(self.cases)} cases: {self._too_small[0]}"

    def summary(self) -> Summary:
        """Method to figure to ``mean`` and ``std`` (sample standard deviation; 0 for one case).

        Cases without a figure are left out of its mean; both are ``None`` if no case has it.
        """
        return _summary(self.cases, tuple(DEFINITIONS))

    def write(self) -> None:
        """Write the tables (completely or not at all) and print the means."""
        if not self.cases:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        summary, through_plane = self.summary(), _summary(self.through_plane, tuple(THROUGH_PLANE_DEFINITIONS))
        content = {
            "definitions": {**DEFINITIONS, **THROUGH_PLANE_DEFINITIONS},
            "facts": {**self.facts, "torch": torch.__version__},
            "lpips_reason": self.lpips_reason,
            "summary": summary,
            "cases": self.cases,
            "through_plane_summary": through_plane,
            "through_plane": self.through_plane,
        }
        write_json(self.output_dir / "metrics.json", content)
        with whole(self.output_dir / "metrics.csv") as part, part.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["case", "method", *DEFINITIONS])
            for case, methods in self.cases.items():
                for method, scores in methods.items():
                    values = (scores[figure] for figure in DEFINITIONS)
                    table.writerow([case, method, *("" if v is None else f"{v:.6f}" for v in values)])
        count = f"mean of {len(self.cases)} cases"
        _print_means(count, summary, DEFINITIONS)
        if self.lpips_reason:
            print(f"  {self.lpips_reason}")
        _print_means(count, through_plane, THROUGH_PLANE_DEFINITIONS)


def _summary(cases: Table, figures: Sequence[str]) -> Summary:
    """Method to figure to ``mean`` and ``std`` over the cases."""
    result: Summary = {}
    for method in next(iter(cases.values()), {}):
        result[method] = {}
        for figure in figures:
            values = np.array([v for case in cases.values() if (v := case[method][figure]) is not None])
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            result[method][figure] = (
                {"mean": float(values.mean()), "std": spread} if len(values) else {"mean": None, "std": None}
            )
    return result


def _print_means(head: str, summary: Summary, definitions: dict[str, str]) -> None:
    widths = {figure: max(12, len(figure)) + 2 for figure in definitions}
    print(f"\n{head:<24}" + "".join(f"{figure:>{width}}" for figure, width in widths.items()))
    for method, figures in summary.items():
        means = {figure: figures[figure]["mean"] for figure in definitions}
        shown = {figure: "" if mean is None else f"{mean:.4f}" for figure, mean in means.items()}
        line = f"{method:<24}" + "".join(f"{shown[figure]:>{width}}" for figure, width in widths.items())
        print(line.rstrip())
    for figure, text in definitions.items():
        print(f"  {figure}: {text}")


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinity, which JSON cannot represent, by ``None``."""
    return {figure: value if np.isfinite(value) else None for figure, value in figures.items()}
