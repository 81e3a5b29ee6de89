# SPDX-License-Identifier: Apache-2.0
"""Find the pairs of scan and result that can be shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .quality import Verdict, error_map_label, read_verdict
from .stack import Stack, compare_grids

__all__ = ["ViewerCase", "ViewerError", "cases_in_output", "find_viewer_cases", "nifti_stem"]

RESULT, ACQUIRED = "_sr", "_acquired"
ERROR, DISAGREEMENT = "_error", "_disagreement"
SUFFIXES = (".nii.gz", ".nii")


class ViewerError(Exception):
    """There is nothing to show, or the files do not belong together. The message is meant for the user."""


@dataclass(frozen=True)
class ViewerCase:
    """One scan and its result.

    Attributes:
        name: name in the output folder. Unless a batch made it, it comes from the name of the scan's file.
        acquired: NIfTI file of the scan.
        result: NIfTI file of the thin slices.
        map: NIfTI file of the error or disagreement map, on the result's grid.
        quality: file of the self-check.
        slice_thickness_mm: thickness of an acquired slice, if a source states it.
        named_by_batch: whether the name is that of a series in a batch, a hash that identifies nobody.
        summary: slices and slice spacing before and after in words, if a batch recorded them.
    """

    name: str
    acquired: Path
    result: Path
    map: Path | None = None
    quality: Path | None = None
    slice_thickness_mm: float | None = None
    named_by_batch: bool = False
    summary: str = ""

    @property
    def export_name(self) -> str:
        """Name that may leave the machine: files of scans are often named after patients."""
        return self.name if self.named_by_batch else "case"

    def stack(self) -> Stack:
        """Position of the acquired slices on the thin grid.

        Raises:
            ViewerError: if a file cannot be read, or if scan and result do not belong together.
        """
        (acquired, acquired_shape), (result, result_shape) = _header(self.acquired), _header(self.result)
        try:
            return compare_grids(acquired, acquired_shape, result, result_shape, self.slice_thickness_mm)
        except ValueError as error:
            raise ViewerError(f"{self.name}: {error}") from error

    def verdict(self) -> Verdict | None:
        """Verdict of the self-check, or ``None`` if it was not made."""
        return read_verdict(self.quality)

    def map_label(self) -> str | None:
        """What the map shows, in words."""
        if self.map is None:
            return None
        if nifti_stem(self.map).endswith(DISAGREEMENT):
            return "disagreement of the network with itself"
        return error_map_label(self.quality)


def nifti_stem(path: Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def cases_in_output(output: Path) -> list[ViewerCase]:
    """All results in an output folder that lie beside the scan from which they were made, sorted by name.

    Only the folder and its direct subfolders are searched, and no link that leads out of the folder is followed.
    """
    cases = []
    for result in _results(output):
        name = nifti_stem(result).removesuffix(RESULT)
        acquired = _beside(result, name + ACQUIRED)
        if acquired is not None:
            cases.append(_with_record(_case(name, acquired, result, None), _json(result.parent / "record.json")))
    return sorted(cases, key=lambda case: case.name)


def find_viewer_cases(scan: Path, result: Path | None, scratch: Path) -> list[ViewerCase]:
    """Find the cases that ``thinslice view`` is asked to show.

    Args:
        scan: an output folder or, if ``result`` is given, a scan (NIfTI or DICOM) or a folder of scans.
        result: a result or an output folder.
        scratch: an empty folder, to which scans that are not NIfTI files are converted.

    Raises:
        ViewerError: if there is nothing to show.
    """
    for path in (scan, result):
        if path is not None and not path.exists():
            raise ViewerError(f"{path} must exist; correct the path")
    if result is None:
        if not scan.is_dir():
            raise ViewerError(f"{scan} is a single file; also give its result: thinslice view SCAN RESULT")
        cases = cases_in_output(scan)
        if not cases and any(_results(scan)):
            raise ViewerError(f"{scan} holds results but no scans; also give the scans: thinslice view SCANS {scan}")
    elif result.is_dir():
        cases = list(_paired(scan, result, scratch))
    else:
        acquired, thickness = _as_nifti(scan, scratch)
        cases = [_case(nifti_stem(result).removesuffix(RESULT), acquired, result, thickness)]
    if not cases:
        raise ViewerError(f"{result or scan} must hold results named <case>_sr.nii.gz, got none; run thinslice first")
    return cases


def _results(output: Path) -> Iterator[Path]:
    root = output.resolve()
    for pattern in (f"*{RESULT}.nii*", f"*/*{RESULT}.nii*"):
        for path in sorted(output.glob(pattern)):
            whole = path.name.endswith(SUFFIXES) and not path.name.startswith(".")
            if whole and path.is_file() and path.resolve().is_relative_to(root):
                yield path


def _beside(result: Path, stem: str) -> Path | None:
    root = result.parent.resolve()
    for suffix in SUFFIXES:
        path = result.parent / f"{stem}{suffix}"
        if path.is_file() and path.resolve().is_relative_to(root):
            return path
    return None


def _case(name: str, acquired: Path, result: Path, thickness: float | None) -> ViewerCase:
    maps = (_beside(result, name + postfix) for postfix in (ERROR, DISAGREEMENT))
    quality = result.parent / f"{name}_quality.json"
    return ViewerCase(
        name=name,
        acquired=acquired,
        result=result,
        map=next((path for path in maps if path is not None), None),
        quality=quality if quality.is_file() else None,
        slice_thickness_mm=thickness if thickness is not None else _sidecar_thickness(acquired),
    )


def _paired(scans: Path, output: Path, scratch: Path) -> Iterator[ViewerCase]:
    """Results of an output folder with the scans of the same name."""
    # the bundle defines the names of scans; the module also reads DICOM, so its import takes seconds
    from scripts.data.cases import find_cases

    by_name = {str(item["case"]): item["image"] for item in find_cases(scans).items}
    for result in _results(output):
        # results lie in the folders of their scans; a batch puts each result into a folder of its own name
        stem = nifti_stem(result).removesuffix(RESULT)
        nested = (result.relative_to(output).parent / stem).as_posix()
        name = nested if nested in by_name else stem
        if name in by_name:
            acquired, thickness = _as_nifti(by_name[name], scratch)
            yield replace(_case(stem, acquired, result, thickness), name=name)


def _as_nifti(source: object, scratch: Path) -> tuple[Path, float | None]:
    """The scan as a NIfTI file, and its slice thickness if it is a DICOM series that states it."""
    if isinstance(source, str | Path) and str(source).endswith(SUFFIXES):
        return Path(source), None
    from scripts.data.cases import read_case
    from scripts.reasons import CaseError

    try:
        name, volume = read_case(source)
    except CaseError as error:
        raise ViewerError(f"the scan cannot be shown: {error}") from error
    path = scratch / f"{name}{ACQUIRED}.nii"
    nib.save(nib.Nifti1Image(volume.array, volume.affine_ras), path)
    return path, volume.slice_thickness_mm


def _header(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        affine = np.asarray(image.affine, dtype=np.float64)
    except Exception as error:  # nibabel raises many kinds of errors for a file that is not an image
        raise ViewerError(f"{path.name} must be a readable NIfTI file, got {type(error).__name__}") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ViewerError(f"{path.name} must be a 3D volume, got shape {shape}; give one volume")
    return affine, shape


def _with_record(case: ViewerCase, record: dict[str, Any]) -> ViewerCase:
    """The case with what the batch recorded about its series, if it is a series of a batch."""
    if record.get("series") != case.name:
        return case
    try:
        before, after = record["geometry_before"], record["geometry_after"]
        spacing = [float(geometry["spacing_mm"][geometry["thick_axis"]]) for geometry in (before, after)]
        slices = [int(record[name]) for name in ("n_slices_in", "n_slices_out")]
    except (KeyError, IndexError, TypeError, ValueError):
        return case  # the volumes can be shown without; the page says that the thickness is unknown
    return replace(
        case,
        slice_thickness_mm=_positive(before.get("slice_thickness_mm")) or case.slice_thickness_mm,
        named_by_batch=True,
        summary=f"{slices[0]} → {slices[1]} slices, {spacing[0]:.3g} → {spacing[1]:.3g} mm",
    )


def _sidecar_thickness(scan: Path) -> float | None:
    """Slice thickness in the JSON file that dcm2niix and BIDS put beside an image."""
    return _positive(_json(scan.parent / f"{nifti_stem(scan)}.json").get("SliceThickness"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _positive(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and value > 0 else None  # type: ignore[arg-type, operator]
