# SPDX-License-Identifier: Apache-2.0
"""Voxels and geometry of one DICOM series, exactly."""

from __future__ import annotations

import numpy as np
import pydicom

from ..volume import Volume
from .discovery import SeriesCandidate

__all__ = ["read_series"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_series(series: SeriesCandidate) -> Volume:
    """Read one series."""
    slices = [pydicom.dcmread(path) for path in series.files]
    first, last = slices[0], slices[-1]
    identity = [(float(s.get("RescaleSlope", 1)), float(s.get("RescaleIntercept", 0))) for s in slices]
    array = np.empty((first.Columns, first.Rows, len(slices)), dtype=np.float32)
    for k, (one, (slope, intercept)) in enumerate(zip(slices, identity, strict=True)):
        array[:, :, k] = (one.pixel_array.astype(np.float64) * slope + intercept).T
    row, column = np.reshape(np.asarray(first.ImageOrientationPatient, dtype=float), (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = row * float(first.PixelSpacing[1])
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    positions = [np.asarray(s.ImagePositionPatient, dtype=float) for s in (first, last)]
    affine[:3, 2] = (positions[1] - positions[0]) / (len(slices) - 1)
    affine[:3, 3] = positions[0]
    stored = np.dtype("int16" if first.PixelRepresentation else "uint16")
    unscaled = set(identity) == {(1.0, 0.0)}
    return Volume(
        array,
        LPS_TO_RAS @ affine,
        stored if unscaled else np.dtype(np.float32),
        slice_thickness_mm=float(first.SliceThickness) if first.get("SliceThickness") else None,
    )
