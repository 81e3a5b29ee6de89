# SPDX-License-Identifier: Apache-2.0
"""Strict reading of NIfTI files: what is ambiguous is refused, never repaired in silence.

Geometry rule: as in the NIfTI standard the sform counts where its code is set, else the qform, else the pixel
dimensions alone. Where both forms are set and do not even agree on the voxel spacing, the file is refused.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .geometry import voxel_spacing_mm
from .reasons import CaseError, Reason
from .volume import Volume

__all__ = ["NIFTI_SUFFIXES", "read_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
KEPT_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "float32")


def read_nifti(path: Path, max_voxels: int = 2**30) -> Volume:
    """Read one 3D scan.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        max_voxels: a larger volume is refused before anything is allocated.

    Returns:
        The volume in scanner units (``scl_slope`` and ``scl_inter`` applied), axes as stored.

    Raises:
        CaseError: with the reason and a message that names the file.
    """
    try:
        image: nib.Nifti1Image = nib.load(path)
        shape, affine = _header(image, path, max_voxels)
        _check_compressed(image, path)
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(
            Reason.UNREADABLE, f"{path.name} must be a readable NIfTI file, got {type(error).__name__}; copy it again"
        ) from error
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise CaseError(
            Reason.NONFINITE, f"{path.name} must hold finite values, got {count} NaN or infinite voxels; repair it"
        )
    stored = image.get_data_dtype().newbyteorder("=")
    # the image's header forgets the scaling on load; its data proxy keeps it
    proxy: Any = image.dataobj
    unscaled = (proxy.slope, proxy.inter) == (1, 0) and stored.name in KEPT_DTYPES
    return Volume(array, affine, stored if unscaled else np.dtype(np.float32))


def _header(image: nib.spatialimages.SpatialImage, path: Path, max_voxels: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine, checked, without touching the voxels."""
    if not isinstance(image, nib.Nifti1Image):
        raise CaseError(Reason.UNREADABLE, f"{path.name} must be a single-file NIfTI image; convert it")
    header = image.header
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise CaseError(
            Reason.NOT_3D, f"{path.name} must be a 3D volume, got shape {shape}; split it into 3D volumes first"
        )
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind not in "iuf":
        raise CaseError(Reason.NOT_3D, f"{path.name} must hold one number per voxel, got RGB or complex; convert it")
    if np.prod(shape, dtype=np.float64) > max_voxels:
        raise CaseError(Reason.TOO_LARGE, f"{path.name} must have at most {max_voxels} voxels, got shape {shape}")
    if header.get_xyzt_units()[0] in ("meter", "micron"):
        raise CaseError(Reason.NO_GEOMETRY, f"{path.name} must be in mm, got {header.get_xyzt_units()[0]}; convert it")
    pixdim = _pixdim_on_disk(image)
    if not (np.isfinite(pixdim) & (pixdim > 0)).all():
        raise CaseError(
            Reason.NO_GEOMETRY, f"{path.name} must have voxel spacing > 0, got {pixdim.tolist()} mm; repair its header"
        )
    try:
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = voxel_spacing_mm(affine)
    except ValueError as error:
        raise CaseError(Reason.NO_GEOMETRY, f"{path.name}: {error}") from error
    both_forms = header["sform_code"] > 0 and header["qform_code"] > 0
    if both_forms and np.abs(spacing / pixdim - 1).max() > 0.01:
        raise CaseError(
            Reason.NO_GEOMETRY,
            f"{path.name} must have one voxel spacing, got sform {spacing.round(4).tolist()} and qform "
            f"{pixdim.round(4).tolist()} mm; repair its header",
        )
    cosines = affine[:3, :3] / spacing
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > 0.01:
        raise CaseError(
            Reason.SHEARED, f"{path.name} must have orthogonal axes, got a cosine of {shear:.3f}; resample it first"
        )
    return shape, affine


def _check_compressed(image: nib.Nifti1Image, path: Path) -> None:
    """Read a ``.gz`` file to its end, where the checksum is: nibabel stops at the last voxel and would not see it.

    Raises:
        CaseError: if far more comes out than the header announces (a decompression bomb).
        OSError: if the checksum is wrong, or the file is cut short.
    """
    if not path.name.endswith(".gz"):
        return
    proxy: Any = image.dataobj
    announced = proxy.offset + np.prod(image.shape, dtype=np.int64) * image.get_data_dtype().itemsize
    total = 0
    with gzip.open(path) as file:
        while chunk := file.read(2**20):
            total += len(chunk)
            if total > announced + 2**20:
                raise CaseError(Reason.UNREADABLE, f"{path.name} must end with its last voxel, got more; repair it")


def _pixdim_on_disk(image: nib.Nifti1Image) -> np.ndarray:
    """Voxel spacing as the file states it: nibabel turns 0 into 1 and drops signs when it loads a header."""
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    return np.asarray(header["pixdim"][1:4], dtype=np.float64)
