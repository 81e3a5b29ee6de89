# SPDX-License-Identifier: Apache-2.0
"""Collect the stacks of a session as the evaluator super-resolves them, fuse them, write volume and report."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events

from ..data.cases import Cases, read_case
from ..files import whole, write_json
from ..geometry import Orientation, voxel_spacing_mm
from ..intensity import IntensityRange
from ..reasons import CaseError, Reason
from ..transforms.consistency import noise_to_signal, scan_operator
from ..transforms.orient import padding_of
from .stacks import Fused, Stack, fuse_stacks

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


class Fusion:
    """Handler of an evaluator whose cases are the stacks of one session.

    Args:
        output_dir: gets ``fused.nii.gz`` (float32, units and axes of the first stack) and ``fused.json``.
        profile: slice profile of the stacks.
        slice_thickness_mm: overrides the headers' thickness.
        rounds: see :func:`scripts.fusion.stacks.fuse_stacks`; likewise the others.
        min_angle_degrees: between the slices of any two stacks.
        min_correlation: of every stack with the first one's result.
        register: correct movement between the stacks.
    """

    def __init__(
        self,
        output_dir: str,
        profile: str,
        slice_thickness_mm: float | None,
        rounds: int,
        min_angle_degrees: float,
        min_correlation: float,
        register: bool,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.how: dict[str, Any] = {
            "rounds": rounds, "min_angle_degrees": min_angle_degrees, "min_correlation": min_correlation,
            "register": register,
        }  # fmt: skip
        self.stacks: list[Stack] = []
        self.logger = logging.getLogger(type(self).__name__)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches are single cases."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Keep the stack that has just been super-resolved."""
        (item,) = engine.state.output
        pred, image = item["pred"], item["image"].cpu()
        meta = image.meta
        if padding_of(image) is not None:
            raise CaseError(Reason.STACKS_DIFFER, "a stack must be measured everywhere, got padding; crop it first")
        affine = np.asarray(meta["acquired_affine"], dtype=np.float64).reshape(4, 4)
        thick_axis = int(meta["thick_axis"])
        unit = IntensityRange(float(meta["intensity_low"]), float(meta["intensity_high"])).to_unit(image.as_tensor())
        self.stacks.append(
            Stack(
                str(meta["filename_or_obj"]).removesuffix(".nii.gz"),
                Orientation.of(affine, thick_axis).undo(image.as_tensor())[0].numpy(),
                affine,
                pred.as_tensor()[0].cpu().float().numpy(),
                np.asarray(pred.affine, dtype=np.float64).reshape(4, 4),
                thick_axis,
                scan_operator(image, self.profile, self.slice_thickness_mm),
                noise_to_signal(unit),
            )
        )

    def write(self) -> None:
        """Fuse, write both files whole or not at all, and say what was done.

        Raises:
            SystemExit: with one line and code 3, if the stacks do not fit together.
        """
        try:
            fused = fuse_stacks(self.stacks, **self.how)
        except CaseError as error:
            print(f"fuse: {error}", file=sys.stderr)
            raise SystemExit(3) from error
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
        """What ``fused.json`` holds: the grid, and of each stack its movement, intensities and what is unexplained."""
        entries = []
        for index, stack in enumerate(self.stacks):
            gain, offset = fused.gains[index]
            entry: dict[str, Any] = {
                "case": stack.name,
                "slice_spacing_mm": float(voxel_spacing_mm(stack.affine)[stack.thick_axis]),
                "scale_factor": stack.operator.grid.scale_factor,
                "gain": gain,
                "offset": offset,
                "unexplained_share_of_range": [residuals[index] for residuals in fused.residuals],
            }
            if index:
                found = fused.registrations[index - 1]
                entry |= {
                    "rotation_degrees": found.rotation_degrees,
                    "shift_mm": found.shift_mm,
                    "correlation_before": found.correlation_before,
                    "correlation": found.correlation,
                    "matrix": found.matrix.tolist(),
                }
            entries.append(entry)
        return {
            "shape": list(fused.volume.shape),
            "spacing_mm": voxel_spacing_mm(fused.affine).tolist(),
            "how": {**self.how, "slice_profile": self.profile},
            "stacks": entries,
        }
