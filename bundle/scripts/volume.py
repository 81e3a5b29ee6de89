# SPDX-License-Identifier: Apache-2.0
"""What every reader returns: voxels, their geometry and facts from the source; and the checks that all readers make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .geometry import voxel_spacing_mm
from .reasons import CaseError, Reason

__all__ = ["KEPT_DTYPES", "Volume", "check_affine", "check_finite", "check_shape"]

# dtypes that a result can be written in
KEPT_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "float32")


@dataclass(frozen=True)
class Volume:
    """A scan in memory.

    Attributes:
        array: ``(I, J, K)`` float32, scanner units (rescale applied), finite. Voxel axes are those of the affine.
        affine_ras: ``(4, 4)`` float64 voxel-to-world matrix in mm, RAS+.
        stored_dtype: dtype of the values on disk *if they are the scanner units themselves* (no rescale), else
            float32; the output is written in this dtype.
        slice_thickness_mm: width of the slab that one slice averages, if the source states it.
        padding: ``(I, J, K)`` bool, True where the source says that a voxel holds no measurement (DICOM's
            PixelPaddingValue, outside a field-of-view mask); None if there is no such voxel. ``array`` holds the lowest
            measured value there, so that no later step meets a value that was never measured.
        padding_value: value of these voxels in the source, scanner units; the output has it again.
        meta: further facts that a later step or the report needs, with the names of
            :func:`scripts.transforms.load.as_meta_tensor`; plain JSON types, no patient data.
    """

    array: np.ndarray
    affine_ras: np.ndarray
    stored_dtype: np.dtype
    slice_thickness_mm: float | None = None
    padding: np.ndarray | None = None
    padding_value: float | None = None
    meta: dict[str, object] = field(default_factory=dict)


def check_shape(name: str, shape: Sequence[int], max_voxels: int) -> tuple[int, int, int]:
    """Demand one 3D volume of acceptable size, before memory is allocated.

    Args:
        name: name of the file, for the message.
        shape: as the header states it; trailing axes of length 1 do not count.
        max_voxels: the most voxels.

    Raises:
        CaseError: ``NOT_3D`` or ``TOO_LARGE``.
    """
    shape = tuple(int(n) for n in shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise CaseError(Reason.NOT_3D, f"{name} must be a 3D volume, got shape {shape}; split it into 3D volumes first")
    if np.prod(shape, dtype=np.float64) > max_voxels:
        raise CaseError(Reason.TOO_LARGE, f"{name} must have at most {max_voxels} voxels, got shape {shape}")
    return shape[0], shape[1], shape[2]


def check_affine(name: str, affine: np.ndarray) -> np.ndarray:
    """Demand orthogonal axes of finite length.

    Returns:
        ``(3,)`` voxel spacing in mm.

    Raises:
        CaseError: ``NO_GEOMETRY`` or ``SHEARED``.
    """
    try:
        spacing = voxel_spacing_mm(affine)
    except ValueError as error:
        raise CaseError(Reason.NO_GEOMETRY, f"{name}: {error}") from error
    cosines = np.asarray(affine)[:3, :3] / spacing
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > 0.01:
        raise CaseError(
            Reason.SHEARED, f"{name} must have orthogonal axes, got a cosine of {shear:.3f}; resample it first"
        )
    return spacing


def check_finite(name: str, array: np.ndarray) -> None:
    """Demand finite values.

    Raises:
        CaseError: ``NONFINITE``.
    """
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise CaseError(
            Reason.NONFINITE, f"{name} must hold finite values, got {count} NaN or infinite voxels; repair it"
        )
