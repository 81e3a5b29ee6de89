# SPDX-License-Identifier: Apache-2.0
"""Evaluate without a thin-slice volume: the slices of a thick scan are the truth, and are made thick along a row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..data.cases import Cases, find_cases
from ..geometry import Orientation, find_thick_axis, voxel_spacing_mm
from ..reasons import CaseError, Reason
from ..transforms.degrade import DegradeVolume
from ..transforms.orient import thin_pixel_spacing_mm
from ..transforms.patch import resample

__all__ = ["IN_PLANE", "ThickenInPlaned", "evaluation_cases"]

IN_PLANE = "in_plane"  # value of evaluation_axis
FEWEST_SLICES = 8  # images are at least 8 x 8 pixels; the windows of SSIM are smaller


def evaluation_cases(location: str, axis: str | int) -> Cases:
    """The cases of an evaluation.

    Args:
        location: see :func:`scripts.data.cases.find_cases`.
        axis: ``evaluation_axis``. With ``in_plane`` every scan is two cases, ``<case>_in_plane0`` and
            ``<case>_in_plane1``: made thick along the first and along the second in-plane axis, in the order
            left-right, posterior-anterior, inferior-superior.
    """
    found = find_cases(location)
    if axis != IN_PLANE:
        return found
    items = [{**item, "case": f"{item['case']}_{IN_PLANE}{row}", "row": row} for item in found.items for row in (0, 1)]
    return replace(found, items=items)


class ThickenInPlaned(MapTransform):
    """Make the slices of a thick scan thick along one in-plane axis; the original slices are the truth.

    As in the self-check (:func:`scripts.inference.in_plane.in_plane_pairs`), the pixels along that axis are first made
    as large as the thin slices of the scan will be, so that the case is as hard as the scan itself.
    ``meta["slice_axis"]`` of the result is the axis along which the acquired slices lie: only they have a truth
    (see :func:`scripts.transforms.orient.image_axes`).

    Args:
        keys: scans; ``data["row"]`` is the in-plane axis, 0 or 1.
        label_key: where the truth goes.
        min_anisotropy: see :func:`scripts.geometry.find_thick_axis`.
        allow_missing_keys: as in MONAI.
        degrade: ``scale_factor``, ``profile`` and ``thickness_to_spacing`` of
            :class:`scripts.transforms.degrade.DegradeVolume`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        min_anisotropy: float = 1.5,
        allow_missing_keys: bool = False,
        **degrade: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.min_anisotropy = min_anisotropy
        self.degrade = degrade

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the pair.

        Raises:
            CaseError: ``ISOTROPIC`` or ``TOO_SMALL``.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            scan: MetaTensor = result[key]
            affine = np.asarray(scan.meta["original_affine"], dtype=np.float64).reshape(4, 4)
            try:
                slice_axis = find_thick_axis(affine, "auto", self.min_anisotropy)
            except ValueError as error:
                raise CaseError(Reason.ISOTROPIC, str(error)) from error
            if scan.shape[1 + slice_axis] < FEWEST_SLICES:
                raise CaseError(
                    Reason.TOO_SMALL,
                    f"a scan must have at least {FEWEST_SLICES} slices to be scored, got {scan.shape[1 + slice_axis]}",
                )
            axis = Orientation.of(affine, slice_axis).axes[int(result["row"])]
            truth = self._coarser(scan, affine, axis, slice_axis)
            image, label = DegradeVolume(thick_axis=axis, **self.degrade)(truth)
            image.meta["thick_axis"], image.meta["slice_axis"] = axis, slice_axis
            result[key], result[self.label_key] = image, label
        return result

    def _coarser(self, scan: MetaTensor, affine: np.ndarray, axis: int, slice_axis: int) -> MetaTensor:
        """Resample the scan along ``axis`` to the spacing of its thin slices, over the same field of view."""
        spacing_mm = voxel_spacing_mm(affine)
        length = scan.shape[1 + axis]
        pixel_mm = thin_pixel_spacing_mm(
            float(spacing_mm[slice_axis]), self.degrade["scale_factor"], float(spacing_mm[axis])
        )
        pixels = round(length * float(spacing_mm[axis]) / pixel_mm)
        lines = scan.as_tensor()[0].movedim(axis, -1)
        size = [lines.shape[1], pixels]
        voxels = resample(lines, size, size).movedim(-1, axis)[None].contiguous()
        moved = np.eye(4)
        moved[axis, axis] = length / pixels
        moved[axis, 3] = (length / pixels - 1) / 2
        return MetaTensor(voxels, meta={**scan.meta, "original_affine": affine @ moved})
