# SPDX-License-Identifier: Apache-2.0
"""Read voxels and geometry of one DICOM series exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..geometry import swap_lps_ras
from ..reasons import CaseError, Reason
from ..volume import Volume
from .discovery import SeriesCandidate
from .headers import Header
from .parsing import open_dicom, quiet
from .pixels import crop_tile, decode_pixels, is_lossy, is_padding, padding_values, scanner_units
from .stack import stack_slices

__all__ = ["read_series"]

LOGGER = logging.getLogger(__name__)
MAX_EXACT = 2**24  # float32 represents every integer up to this


def read_series(series: SeriesCandidate, max_inflated_bytes: int = 2**27) -> Volume:
    """Read one volume of a series.

    Args:
        series: from :func:`scripts.dicom.discovery.discover`; its headers are not read again.
        max_inflated_bytes: the most that a deflated file may inflate to.

    Returns:
        The volume. Its voxel axes run along columns (left to right in the image), rows (top to bottom) and slices. Its
        values are scanner units, after the rescale of each slice. ``meta`` holds ``slice_spacing_mm``, ``slice_gap_mm``
        (spacing minus thickness, negative if slices overlap, None if the thickness is not stated), ``lossy``,
        ``inverted`` (MONOCHROME1) and ``body_part`` (a word of :mod:`scripts.dicom.anatomy`, or empty).

    Raises:
        CaseError: ``CHANGED`` if a file has changed since discovery, ``TRUNCATED``, ``NO_DECODER``, ``NONFINITE`` or
            ``UNREADABLE``.
    """
    for warning in series.warnings:
        LOGGER.warning("%s: %s", series.key, warning)
    headers = series.slices
    stack = stack_slices(headers, min_slices=2)
    headers = tuple(headers[i] for i in stack.order)
    first = headers[0]
    array = np.empty((first.columns, first.rows, len(headers)), dtype=np.float32)
    padding = np.zeros(array.shape, dtype=bool)
    whole_numbers = all((header.slope, header.intercept) == (1, 0) for header in headers)
    for k, stored in _stored(headers, max_inflated_bytes):
        header = headers[k]
        values = scanner_units(header, stored)
        padding[:, :, k] = is_padding(header, stored).T
        if not np.isfinite(values).all() or np.abs(values).max() > np.finfo(np.float32).max:
            raise CaseError(Reason.NONFINITE, "voxels must be finite after rescale, but some are not; export it again")
        if whole_numbers and np.abs(values).max() > MAX_EXACT:
            message = f"integer voxels must be within +-{MAX_EXACT} to be exact, got {np.abs(values).max():g}"
            raise CaseError(Reason.TOO_LARGE, message)
        array[:, :, k] = values.T
    padding_value = _take_out(padding, array, first)
    spacing = float(np.linalg.norm(stack.affine_lps[:3, 2]))
    thickness = first.slice_thickness if first.slice_thickness and first.slice_thickness > 0 else None
    widest = max(headers, key=lambda header: header.bits_allocated)
    signed = any(header.signed for header in headers)
    return Volume(
        array,
        swap_lps_ras(stack.affine_lps),
        np.dtype(f"{'' if signed else 'u'}int{widest.bits_allocated}") if whole_numbers else np.dtype(np.float32),
        slice_thickness_mm=thickness,
        padding=None if padding_value is None else padding,
        padding_value=padding_value,
        meta={
            "slice_spacing_mm": spacing,
            "slice_gap_mm": None if thickness is None else spacing - thickness,
            "lossy": any(is_lossy(header) for header in headers),
            "inverted": any(header.photometric == "MONOCHROME1" for header in headers),
            "body_part": first.body_part,
        },
    )


def _take_out(padding: np.ndarray, array: np.ndarray, first: Header) -> float | None:
    """Replace padding by the lowest measured value, **in place**; returns the replaced values."""
    values = padding_values(first)
    if values is None or not padding.any():
        return None
    if padding.all():
        raise CaseError(Reason.CONSTANT, "a series must hold measured voxels, but all are padding; nothing to do")
    array[padding] = array[~padding].min()
    return float(scanner_units(first, np.array(values[0])))


def _stored(headers: Sequence[Header], max_inflated_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and stored values of each slice; each file is opened once, and each of its images decoded once."""
    by_file: dict[Path, dict[int, list[int]]] = {}
    for k, header in enumerate(headers):
        by_file.setdefault(header.path, {}).setdefault(header.frame, []).append(k)
    for frames in by_file.values():
        data = _pixel_data(headers[next(iter(frames.values()))[0]], max_inflated_bytes)
        for slices in frames.values():
            with quiet():
                image = decode_pixels(headers[slices[0]], data)
            for k in slices:
                yield k, crop_tile(headers[k], image)


def _pixel_data(header: Header, max_inflated_bytes: int) -> bytes:
    """Value of the PixelData element of a file, which must not have changed since discovery."""
    assert header.pixels is not None  # read_headers sets an error otherwise
    try:
        with quiet(), open_dicom(header.path, max_inflated_bytes) as (file, _, _, stamp):
            if stamp != header.stamp:
                message = "a series must stay as it is while it is read, but a file has changed; run again later"
                raise CaseError(Reason.CHANGED, message)
            file.seek(header.pixels.offset)
            return file.read(header.pixels.length)
    except FileNotFoundError as error:
        raise CaseError(Reason.CHANGED, "a series must stay where it is while it is read; run again") from error
    except OSError as error:
        message = f"a DICOM file must be readable, got {type(error).__name__}; check the storage"
        raise CaseError(Reason.UNREADABLE, message) from error
