# SPDX-License-Identifier: Apache-2.0
"""The cases of a table, which are made thick, completed and scored by the components of ``evaluate.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scripts.data.cases import find_cases
from scripts.degradation import SliceProfileOperator
from scripts.evaluation.metrics import foreground, psnr, score_volume
from scripts.evaluation.resolution import score_through_plane
from scripts.geometry import Orientation, SliceGrid, voxel_spacing_mm
from scripts.intensity import IntensityRange, mr_intensity_range
from scripts.transforms.consistency import scan_operator
from scripts.transforms.orient import working_spacing_mm

from studies.grid import shift_voxels
from studies.peers.scan import Scan
from tools.run_bundle import BUNDLE

__all__ = ["Case", "CaseSet", "read_table_config", "training_cases", "training_scans", "training_volumes"]

FOLDER = Path(__file__).parent

logger = logging.getLogger(__name__)


def read_table_config(protocol: str, ids: dict[str, Any]) -> ConfigParser:
    """Merge ``common.json``, ``inference.json``, ``evaluate.json``, ``table1.json``, the protocol and overrides.

    Args:
        protocol: name of a file in ``studies/protocols``, or path of another JSON file.
        ids: overrides.

    Raises:
        FileNotFoundError: if there is no such protocol.
    """
    path = Path(protocol) if protocol.endswith(".json") else FOLDER / "protocols" / f"{protocol}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (FOLDER / "protocols").glob("*.json")))
        raise FileNotFoundError(f"PROTOCOL must be one of {known}, or a JSON file, got {protocol}; correct it")
    parser = ConfigParser()
    configs = [BUNDLE / "configs" / name for name in ("common.json", "inference.json", "evaluate.json")]
    parser.read_config([str(p) for p in (*configs, FOLDER / "table1.json", path)])
    parser.update({"bundle_root": str(BUNDLE), **ids})
    return parser


@dataclass(frozen=True)
class Case:
    """A thin-slice volume and the thick slices that were made from it.

    Attributes:
        name: name of the case.
        data: ``image`` (oriented, unit range) and ``label`` (the truth, stored axes, scanner units).
        scan: the input of a method.
    """

    name: str
    data: dict[str, Any]
    scan: Scan

    @property
    def image(self) -> MetaTensor:
        """The thick-slice scan with its meta data."""
        return self.data["image"]

    @property
    def truth(self) -> np.ndarray:
        """``(I, J, K)`` in scanner units, stored axes."""
        return self.data["label"].as_tensor()[0].numpy()

    @property
    def thick_axis(self) -> int:
        """Stored axis along which the slices are thick."""
        return int(self.image.meta["thick_axis"])

    @property
    def affine(self) -> np.ndarray:
        """``(4, 4)`` RAS affine of the truth."""
        return np.asarray(self.data["label"].affine, np.float64)

    @property
    def orientation(self) -> Orientation:
        """Orientation that maps the stored axes to the working axes."""
        return Orientation.of(self.affine, self.thick_axis)

    @property
    def intensity_range(self) -> IntensityRange:
        """The intensities of the scan that became -1 and 1."""
        return IntensityRange(*(float(self.image.meta[f"intensity_{end}"]) for end in ("low", "high")))

    def thick(self) -> np.ndarray:
        """The thick slices in scanner units, stored axes, on their own grid."""
        stored = self.orientation.undo(self.scan.image[None])[0].clone()
        return self.intensity_range.from_unit_(stored).numpy()

    def truth_in_unit_range(self) -> torch.Tensor:
        """``(H1, H2, n_thin)`` truth in working axes, scaled like the scan."""
        return self.orientation.apply(self.intensity_range.to_unit(self.data["label"].as_tensor()))[0]

    def slab(self, rows: int) -> tuple[Scan, torch.Tensor]:
        """The middle ``rows`` of the first axis, as scan and truth, for curves that do not score the whole volume."""
        length = self.scan.image.shape[0]
        part = slice(max(0, (length - rows) // 2), max(0, (length - rows) // 2) + rows)
        reference = None if self.scan.reference is None else self.scan.reference[part].contiguous()
        scan = replace(self.scan, image=self.scan.image[part].contiguous(), reference=reference)
        return scan, self.truth_in_unit_range()[part]


class CaseSet:
    """The volumes of one folder under one protocol.

    Args:
        folder: folder of thin-slice MR volumes.
        protocol: see :func:`read_table_config`.
        ids: overrides.
        reference: folder with another, thin contrast of each patient, in files with the same names and grids.

    Attributes:
        label: name of the folder and of the protocol, for the table.
        items: the cases that :func:`scripts.data.cases.find_cases` found.
        warnings: sentences for the table, such as a voxel size that the protocol does not expect.

    Raises:
        ValueError: if a folder holds no volume.
    """

    def __init__(self, folder: Path, protocol: str, ids: dict[str, Any], reference: Path | None = None) -> None:
        parser = read_table_config(protocol, ids)
        self.folder = folder
        self.reference = reference
        self.label = f"{folder.name}, {Path(protocol).stem}"
        self.parser = parser
        self.scale_factor = float(parser.get_parsed_content("evaluation_factor"))
        self.profile = str(parser.get_parsed_content("slice_profile"))
        self.thickness_to_spacing = float(parser.get_parsed_content("evaluation_thickness_to_spacing"))
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.finish = parser.get_parsed_content("postprocessing")
        plain = read_table_config(protocol, {**ids, "data_consistency": "off"})
        self.finish_plain = plain.get_parsed_content("postprocessing")
        found = find_cases(folder)
        self.warnings = [f"{name} is left out: {error}" for name, error in (*found.skipped, *found.refused)]
        if not found.items:
            raise ValueError(f"{folder} must hold thin-slice MR volumes, got none; {[*self.warnings, found.hint][0]}")
        self.items = found.items

    @property
    def names(self) -> list[str]:
        """Names of the cases."""
        return [str(item["case"]) for item in self.items]

    def operator(self, n_slices: int = 1) -> SliceProfileOperator:
        """D of the protocol for a scan with ``n_slices`` slices."""
        grid = SliceGrid.over_slab(n_slices, self.scale_factor)
        return SliceProfileOperator(grid, self.profile, self.thickness_to_spacing)

    def case(self, index: int) -> Case:
        """Read a case and make it thick."""
        data = self.preprocessing(dict(self.items[index]))
        image = data["image"]
        operator = scan_operator(image, self.profile, None)
        rows, columns, slices = map(float, working_spacing_mm(image))
        case = Case(self.names[index], data, Scan(image.as_tensor()[0].contiguous(), (rows, columns, slices), operator))
        if self.reference is not None:
            case = replace(case, scan=replace(case.scan, reference=self._reference(case)))
        expected = self.parser.get_parsed_content("expected_spacing_mm")
        spacing_mm = voxel_spacing_mm(case.affine)
        if expected is not None and np.abs(np.sort(spacing_mm) / np.sort(expected) - 1).max() > 0.05:
            shown = " x ".join(f"{s:.2f}" for s in spacing_mm)
            text = f"{case.name}: the protocol expects voxels of {expected} mm, this volume has {shown} mm"
            if text not in self.warnings:
                self.warnings.append(text)
        return case

    def _reference(self, case: Case) -> torch.Tensor:
        """``(H1, H2, n_thin)`` of the other contrast in working axes, in its own unit range."""
        assert self.reference is not None
        path = self.reference / f"{case.name}.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(f"REFERENCE must hold the other contrast of {case.name}, got no {path.name} in it")
        image = nib.load(path)
        kept = tuple(slice(length) for length in case.truth.shape)  # the remainder is cut off the truth, too
        volume = torch.from_numpy(np.asarray(image.dataobj, np.float32))[kept]
        if volume.shape != case.truth.shape or np.abs(image.affine - case.affine).max() > 1e-2:
            raise ValueError(
                f"the reference of {case.name} must lie on its grid, {case.truth.shape}, got {tuple(volume.shape)} or "
                "another affine; register and resample it first"
            )
        unit = mr_intensity_range(volume, *self.parser.get_parsed_content("mr_percentiles")).to_unit(volume)
        return case.orientation.apply(unit[None])[0].contiguous()

    def place(self, case: Case, thin: torch.Tensor, consistent: bool) -> np.ndarray:
        """Put the result of a method on the grid of the truth, in scanner units.

        Args:
            case: the case.
            thin: ``(H1, H2, n_thin)`` in unit range.
            consistent: whether to apply the data consistency of the table first.
        """
        image = MetaTensor(case.image.as_tensor().clone(), meta=dict(case.image.meta))
        data = {"image": image, "pred": thin[None].clone(), "label": case.data["label"]}
        placed = (self.finish if consistent else self.finish_plain)(data)["pred"]
        return placed.as_tensor()[0].float().numpy()

    @staticmethod
    def score(case: Case, volume: np.ndarray, lpips: Any, squeeze: Any = None) -> dict[str, Any]:
        """All scores of a result; those along the thick axis are under ``through_plane``."""
        spacing_mm, factor = voxel_spacing_mm(case.affine), case.scan.scale_factor
        return {
            **score_volume(volume, case.truth, case.thick_axis, lpips=lpips),
            "squeeze_distance": (
                None if squeeze is None else squeeze(volume, case.truth, case.thick_axis, foreground(case.truth))
            ),
            "shift_voxels": shift_voxels(volume, case.truth, case.thick_axis),
            "through_plane": score_through_plane(volume, case.truth, spacing_mm, case.thick_axis, factor),
        }

    @staticmethod
    def score_psnr(case: Case, volume: np.ndarray) -> float:
        """PSNR of a result."""
        return psnr(volume, case.truth, float(np.ptp(case.truth)))


def training_cases(folder: Path, name: str) -> list[dict[str, object]]:
    """The volumes of a training folder, as :func:`scripts.data.cases.find_cases` lists them.

    A warning says how many others are left out, and why.

    Args:
        folder: folder of volumes.
        name: name of the folder in messages, such as ``MR``.

    Raises:
        ValueError: if there is no volume.
    """
    found = find_cases(folder)
    left_out = [f"{case}: {error}" for case, error in (*found.refused, *found.skipped)]
    if not found.items:
        raise ValueError(f"{name} must hold volumes to learn from, got none in {folder}; {[*left_out, found.hint][0]}")
    if left_out:
        count = len(found.items)
        logger.warning("%s: %d left out, %d to learn from; %s", name, len(left_out), count, "; ".join(left_out))
    return found.items


def training_scans(folder: Path, case_set: CaseSet) -> list[Scan]:
    """Thick training scans, oriented and in unit range, each with the operator of the table."""
    parser = case_set.parser
    parser.update({"mr_dir": str(folder), "dataset_dir": str(folder)})
    transform = parser.get_parsed_content("mr_preprocessing")
    return [
        Scan(item["image"][0].contiguous(), _spacing(item["spacing_mm"]), case_set.operator(item["image"].shape[-1]))
        for item in (transform(dict(entry)) for entry in training_cases(folder, "MR"))
    ]


def training_volumes(folder: Path, case_set: CaseSet) -> list[tuple[torch.Tensor, Sequence[float]]]:
    """Thin training volumes: ``(1, I, J, K)`` in unit range, and their spacing in mm."""
    load, _, scale, plain = case_set.parser.get_parsed_content("mr_preprocessing").transforms  # not oriented
    items = [plain(scale(load(dict(entry)))) for entry in training_cases(folder, "HR_TRAIN")]
    return [(item["image"], _spacing(item["spacing_mm"])) for item in items]


def _spacing(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in np.asarray(values).reshape(-1))
    return a, b, c
