# SPDX-License-Identifier: Apache-2.0
"""What every reader returns: voxels, where they are, and what the source said about them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Volume"]


@dataclass(frozen=True)
class Volume:
    """A scan in memory.

    Attributes:
        array: ``(I, J, K)`` float32, scanner units (rescale applied), finite. Voxel axes are those of the affine.
        affine_ras: ``(4, 4)`` float64 voxel-to-world matrix in mm, RAS+.
        stored_dtype: dtype of the values on disk *if they are the scanner units themselves* (no rescale), else
            float32; the output is written in this dtype.
        slice_thickness_mm: width of the slab that one slice averages, where the source states it.
        padding: ``(I, J, K)`` bool, True where the source says that a voxel holds no measurement (DICOM's
            PixelPaddingValue, outside a field-of-view mask); None where no voxel is such. ``array`` holds the lowest
            measured value there, so that nothing downstream meets a value that was never measured.
        padding_value: what stood in those voxels, scanner units; the output holds it again.
        meta: further facts that a later step needs; plain JSON types, no patient data.
    """

    array: np.ndarray
    affine_ras: np.ndarray
    stored_dtype: np.dtype
    slice_thickness_mm: float | None = None
    padding: np.ndarray | None = None
    padding_value: float | None = None
    meta: dict[str, object] = field(default_factory=dict)
