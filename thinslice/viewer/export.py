# SPDX-License-Identifier: Apache-2.0
"""Export a case as a single HTML file, for example for a mail or a ticket.

The file holds the volumes, as exactly as its size limit allows. The page says what was reduced. New headers are
written, so that the file contains no free text of the original headers.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from .cases import ViewerCase, ViewerError
from .page import single_page
from .stack import compare_grids

__all__ = ["export_case"]

GZIP_LEVEL = 6


@dataclass(frozen=True)
class _Volume:
    """Array, in scanner units or as stored integers, and its affine."""

    array: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class _Level:
    """Level of reduction: bits per voxel, and the number of pixels averaged along each in-plane axis."""

    bits: int
    factor: int


# from exact to small; the first level that fits the limit is taken
LEVELS = (_Level(16, 1), _Level(8, 1), _Level(8, 2), _Level(8, 3), _Level(8, 4))


def export_case(case: ViewerCase, file: BinaryIO | Any, limit_mb: float) -> list[str]:
    """Write the page with its volumes.

    Args:
        case: the case.
        file: open for writing bytes.
        limit_mb: largest size in MB of 10^6 bytes.

    Returns:
        Sentences that say what was reduced. The page shows them too.

    Raises:
        ViewerError: if the files cannot be read or do not belong together, or if no level fits the limit.
    """
    stack = case.stack()
    paths = {"acquired": case.acquired, "result": case.result, "map": case.map}
    try:
        volumes = {role: _read(path) for role, path in paths.items() if path is not None}
    except Exception as error:
        raise ViewerError(f"{case.name}: its files must be readable, got {type(error).__name__}") from error
    in_plane = [axis for axis in range(3) if axis != stack.thick_axis]
    for level in LEVELS:
        reduced = {role: _shrink(volume, in_plane, level.factor) for role, volume in volumes.items()}
        packed, words = _pack(reduced, level)
        if level.factor > 1:
            words.append(f"In each slice, squares of {level.factor} by {level.factor} pixels are averaged to one.")
        acquired, result = reduced["acquired"], reduced["result"]
        description = {
            "name": case.export_name,
            "stack": compare_grids(
                acquired.affine, acquired.array.shape, result.affine, result.array.shape, case.slice_thickness_mm
            ).to_json(),
            "verdict": case.verdict(),
            "map": case.map_label(),
            "reduced": words,
        }
        if sum(4 * len(content) // 3 for content in packed.values()) > limit_mb * 1e6:
            continue
        page = [piece.encode() for piece in single_page(description, packed)]
        if sum(map(len, page)) <= limit_mb * 1e6:
            file.writelines(page)
            return words
    raise ViewerError(f"{case.name}: an export of {limit_mb:g} MB must hold the volumes, but cannot; raise the limit")


def _read(path: Any) -> _Volume:
    image: Any = nib.load(path)
    exact = (image.dataobj.slope, image.dataobj.inter) == (1, 0) and image.get_data_dtype().name in (
        "int8", "uint8", "int16", "uint16",
    )  # fmt: skip
    array = np.asarray(image.dataobj.get_unscaled() if exact else image.dataobj)
    array = array.reshape(array.shape[:3])
    return _Volume(array if exact else array.astype(np.float32), np.asarray(image.affine, dtype=np.float64))


def _shrink(volume: _Volume, in_plane: list[int], factor: int) -> _Volume:
    """Average blocks of ``factor`` pixels along both in-plane axes; the last block repeats the border."""
    if factor == 1:
        return volume
    array, affine = volume.array.astype(np.float32), volume.affine.copy()
    for axis in in_plane:
        pad = [(0, 0)] * 3
        pad[axis] = (0, -array.shape[axis] % factor)
        array = np.pad(array, pad, mode="edge")
        shape = list(array.shape)
        shape[axis : axis + 1] = [shape[axis] // factor, factor]
        array = array.reshape(shape).mean(axis=axis + 1)
        # the centre of the first block is the mean of the centres of its pixels
        affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
        affine[:3, axis] *= factor
    return _Volume(array, affine)


def _pack(volumes: Mapping[str, _Volume], level: _Level) -> tuple[dict[str, bytes], list[str]]:
    """Gzipped NIfTI files, and sentences that say what was lost in them."""
    images = {role: volumes[role] for role in ("acquired", "result")}
    window = _range(images.values()) if level.bits == 8 else None
    words = []
    if window is not None:
        step = (window[1] - window[0]) / 255
        words.append(
            f"Grey values are rounded to 256 steps of {step:.3g} and cut off at {window[0]:.4g} and {window[1]:.4g}."
        )
    packed = {role: _nifti(volume, window, level.bits) for role, volume in images.items()}
    if "map" in volumes:
        top = max(float(volumes["map"].array.max()), 1e-6)
        packed["map"] = _nifti(volumes["map"], (0.0, top), 8)
        words.append(f"The map is rounded to steps of {top / 255:.3g}.")
    return packed, words


def _range(volumes: Any) -> tuple[float, float]:
    """Range of grey values for the 256 steps. It leaves out one voxel in a thousand at either end."""
    ends = [np.percentile(volume.array, (0.1, 99.9)) for volume in volumes]
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    return low, high if high > low else low + 1


def _nifti(volume: _Volume, window: tuple[float, float] | None, bits: int) -> bytes:
    array = volume.array
    slope, inter = 1.0, 0.0
    if window is not None or array.dtype.kind == "f":
        low, high = window or (float(array.min()), float(array.max()))
        top = 2**bits - 1
        slope, inter = (high - low) / top or 1.0, low
        scaled = np.rint((array.astype(np.float32) - low) / slope).clip(0, top)
        array = scaled.astype(np.uint8 if bits == 8 else np.uint16)
    image = nib.Nifti1Image(array, volume.affine)
    image.header.set_slope_inter(slope, inter)
    image.header.set_xyzt_units("mm")
    return gzip.compress(b"".join(_file_pieces(image, array)), GZIP_LEVEL, mtime=0)


def _file_pieces(image: nib.Nifti1Image, array: np.ndarray) -> Iterator[bytes]:
    """Header, no extension, and voxels in Fortran order. The writer of nibabel would scale the integers again."""
    header = image.header.copy()
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    stream = io.BytesIO()
    header.write_to(stream)
    yield stream.getvalue()[:348] + bytes(4)
    yield np.asfortranarray(array).tobytes(order="F")
