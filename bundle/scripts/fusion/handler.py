# SPDX-License-Identifier: Apache-2.0
"""Collect the stacks of a session after super-resolution, fuse them, and write the volume and a report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from ..data.cases import Cases, read_case
from ..files import whole, write_json
from ..geometry import Orientation, voxel_spacing_mm
from ..inference.evaluator import CaseEvaluator, case_error
from ..intensity import IntensityRange
from ..networks.interpolation import interpolate_cubic
from ..reasons import CaseError, Reason
from ..transforms.consistency import noise_to_signal, scan_operator
from ..transforms.orient import padding_of, slice_grid
from .stacks import Fused, Stack, check_stacks, fuse_stacks

__all__ = ["Fusion", "stack_cases"]


def stack_cases(stacks: list[str]) -> Cases:
    """The stacks as cases of one evaluation, in their order.

    Args:
        stacks: paths, each a NIfTI file or a folder of one DICOM series.
    """
    cases = Cases(location=", ".join(stacks), hint="name at least two stacks")
    for index, path in enumerate(stacks):
        try:
            name, _ = read_case(path)
        except CaseError as error:
            cases.refused.append((Path(path).name, error))
        else:
            cases.items.append({"image": path, "case": f"{index}_{name}"})
    return cases


@contextmanager
def _exit_if_refused() -> Iterator[None]:
    """End the process with one line and code 3 if the stacks do not fit together."""
    try:
        yield
    except CaseError as error:
        print(f"fuse: {error}", file=sys.stderr)
        raise SystemExit(3) from error


class Fusion:
    """Handler of an evaluator whose cases are the stacks of one session.

    Args:
        output_dir: folder for ``fused.nii.gz`` (float32, units and axes of the first stack) and ``fused.json``.
        profile: slice profile of the stacks.
        slice_thickness_mm: overrides the headers' thickness.
        rounds: see :func:`scripts.fusion.stacks.fuse_stacks`.
        min_angle_degrees: smallest angle between the slices of any two stacks.
        min_correlation: smallest correlation of a stack with the result of the first one.
        register: whether to correct movement between the stacks.
    """

    def __init__(
        self,
        output_dir: str,
        profile: str,
        slice_thickness_mm: float | None,
        rounds: int,
        least_progress: float,
        min_angle_degrees: float,
        min_correlation: float,
        register: bool,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.how: dict[str, Any] = {
            "rounds": rounds, "least_progress": least_progress,
            "min_angle_degrees": min_angle_degrees, "min_correlation": min_correlation, "register": register,
        }  # fmt: skip
        self.stacks: list[Stack] = []
        self.logger = logging.getLogger(type(self).__name__)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches are single cases."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def check(self, evaluator: CaseEvaluator) -> None:
        """Refuse stacks that do not fit together, by their cubic interpolations, before the network takes minutes.

        Args:
            evaluator: evaluator whose cases are the stacks. They are read, but the network does not run.

        Raises:
            SystemExit: with a line for each reason and code 3, if a stack cannot be read or they do not fit together.
        """
        stacks: list[Stack] = []
        evaluator.failures = list(evaluator.cases.refused)
        for index, item in enumerate(evaluator.cases.items):
            try:
                image = evaluator.dataset[index]["image"].cpu()
                affine = np.asarray(image.meta["original_affine"], dtype=np.float64).reshape(4, 4)
                cubic = interpolate_cubic(image.as_tensor(), slice_grid(image).positions_tensor())
                thin = Orientation.of(affine, int(image.meta["thick_axis"])).undo(cubic)
                stacks.append(self._stack(str(item["case"]), image, affine, thin, eps=0))
            except Exception as error:  # whatever is wrong with one stack, the others are checked too
                evaluator.failures.append((str(item["case"]), case_error(error)))
        evaluator.raise_for_failures()
        with _exit_if_refused():
            check_stacks(stacks, self.how["min_angle_degrees"], self.how["min_correlation"], self.how["register"])

    def __call__(self, engine: Any) -> None:
        """Collect the stack that has just been super-resolved."""
        (item,) = engine.state.output
        image = item["image"].cpu()
        name = str(image.meta["filename_or_obj"]).removesuffix(".nii.gz")
        affine = np.asarray(image.meta["acquired_affine"], dtype=np.float64).reshape(4, 4)
        unit = IntensityRange(float(image.meta["intensity_low"]), float(image.meta["intensity_high"]))
        eps = noise_to_signal(unit.to_unit(image.as_tensor()))
        self.stacks.append(self._stack(name, image, affine, item["pred"].as_tensor().cpu().float(), eps))

    def _stack(self, name: str, image: MetaTensor, affine: np.ndarray, thin: torch.Tensor, eps: float) -> Stack:
        """The oriented ``image`` and ``thin``, ``(1, I, J, K)`` on stored axes, as one stack."""
        if padding_of(image) is not None:
            raise CaseError(Reason.STACKS_DIFFER, "a stack must be measured everywhere, got padding; crop it first")
        thick_axis = int(image.meta["thick_axis"])
        operator = scan_operator(image, self.profile, self.slice_thickness_mm)
        slices = Orientation.of(affine, thick_axis).undo(image.as_tensor())
        thin_affine = operator.grid.thin_affine(affine, thick_axis)
        return Stack(name, slices[0].numpy(), affine, thin[0].numpy(), thin_affine, thick_axis, operator, eps)

    def write(self) -> None:
        """Fuse the stacks, write both files completely or not at all, and log what was done.

        Raises:
            SystemExit: with one line and code 3, if the stacks do not fit together.
        """
        with _exit_if_refused():
            fused = fuse_stacks(self.stacks, **self.how)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        header = nib.Nifti1Header()
        header.set_xyzt_units("mm")
        for place in (header.set_sform, header.set_qform):
            place(fused.affine, code="scanner")
        with whole(self.output_dir / "fused.nii.gz") as part:
            nib.save(nib.Nifti1Image(fused.volume, None, header), part)
        report = self.report(fused)
        write_json(self.output_dir / "fused.json", report, indent=2)
        for stack in report["stacks"]:
            self.logger.info("%s", stack)

    def report(self, fused: Fused) -> dict[str, Any]:
        """Content of ``fused.json``: the grid, and for each stack its movement, intensities and residuals."""
        entries = []
        for index, stack in enumerate(self.stacks):
            entry: dict[str, Any] = {
                "case": stack.name,
                "slice_spacing_mm": float(voxel_spacing_mm(stack.affine)[stack.thick_axis]),
                "scale_factor": stack.operator.grid.scale_factor,
                "gain": fused.gains[index],
                "unexplained_share_of_range": [residuals[index] for residuals in fused.residuals],
            }
            if index:
                found = fused.registrations[index - 1]
                entry |= {
                    "rotation_degrees": found.rotation_degrees,
                    "shift_mm": found.shift_mm,
                    "correlation_before": found.similarity_before,
                    "correlation": found.similarity,
                    "matrix": found.matrix.tolist(),
                }
            entries.append(entry)
        return {
            "shape": list(fused.volume.shape),
            "spacing_mm": voxel_spacing_mm(fused.affine).tolist(),
            "how": {**self.how, "slice_profile": self.profile},
            "stacks": entries,
        }
