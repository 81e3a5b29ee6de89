# SPDX-License-Identifier: Apache-2.0
"""Read NIfTI files strictly: an ambiguous file is refused, never silently repaired.

The geometry follows the NIfTI standard: the sform counts if its code is set, else the qform, else the pixel dimensions
alone. A file whose sform and pixel dimensions differ in voxel spacing is refused. A result keeps both forms, each moved
to the new grid, and their codes: see :func:`moved_forms`.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .reasons import CaseError, Reason
from .volume import KEPT_DTYPES, Volume, check_affine, check_finite, check_shape

__all__ = ["NIFTI_SUFFIXES", "moved_forms", "read_nifti"]

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr")
# intent codes of the standard: statistics and estimates, names of structures
STATISTICS, ESTIMATE, LABELS = range(2, 25), 1001, (1002, 1003)

SHEAR_TOLERANCE = 1e-4  # cosine; smaller ones are within the accuracy of single precision
PLACE_TOLERANCE_MM = 1e-2


def read_nifti(path: Path, max_voxels: int = 2**30) -> Volume:
    """Read one 3D scan.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, or the ``.hdr`` of a pair.
        max_voxels: a larger volume is refused before anything is allocated.

    Returns:
        The volume in scanner units (``scl_slope`` and ``scl_inter`` applied), axes as stored. ``meta`` holds what
        :func:`moved_forms` needs: ``qform``, ``qform_code``, ``sform``, ``sform_code`` and ``xyzt_units``.

    Raises:
        CaseError: with the reason and a message that names the file.
    """
    try:
        image: nib.Nifti1Pair = nib.load(path)
        shape, affine = _header(image, path, max_voxels)
        _check_compressed(image, path)
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise CaseError(
            Reason.UNREADABLE, f"{path.name} must be a readable NIfTI file, got {type(error).__name__}; copy it again"
        ) from error
    check_finite(path.name, array)
    stored = image.get_data_dtype().newbyteorder("=")
    # nibabel removes the scaling from the header on load; its data proxy keeps it
    proxy: Any = image.dataobj
    unscaled = (proxy.slope, proxy.inter) == (1, 0) and stored.name in KEPT_DTYPES
    return Volume(array, affine, stored if unscaled else np.dtype(np.float32), meta=_forms(image, affine))


def _forms(image: nib.Nifti1Pair, affine: np.ndarray) -> dict[str, object]:
    """Both matrices, their codes and the units; if the sform counts, it is the affine that was read."""
    header = image.header
    codes = int(header["qform_code"]), int(header["sform_code"])
    qform = affine
    if codes[0] > 0:
        try:
            qform = np.asarray(image.get_qform(coded=False), dtype=np.float64)
        except HeaderDataError:  # no valid quaternion: the form is lost, whatever its code
            codes = 0, codes[1]
    return {
        "qform": qform,
        "qform_code": codes[0],
        "sform": affine,
        "sform_code": codes[1],
        "xyzt_units": int(header["xyzt_units"]),
    }


def moved_forms(meta: Mapping[str, Any], affine: np.ndarray, shape: Sequence[int]) -> nib.Nifti1Header:
    """Header of a result: both forms of its source, moved to the new grid by the same transform in voxels.

    Args:
        meta: meta data from :func:`read_nifti`.
        affine: ``(4, 4)`` RAS affine of the result.
        shape: shape of the result.

    Returns:
        A header with pixel dimensions, both forms with the codes of the source, and its units. If neither code is set,
        the position of a file follows from its pixel dimensions, as that of the source does. If that is not the
        position of the result, its sform states it (code 2, aligned).
    """
    q_code, s_code = (_plain(meta[f"{form}_code"]) for form in ("qform", "sform"))
    qform, sform = (np.asarray(meta[form], dtype=np.float64).reshape(4, 4) for form in ("qform", "sform"))
    header = nib.Nifti1Header()
    header["xyzt_units"] = _plain(meta["xyzt_units"])
    header.set_data_shape(shape)
    header.set_sform(affine, code=s_code)
    # sform is the affine that was read, whatever its code; the transform leads from it to the result
    header.set_qform(qform @ np.linalg.inv(sform) @ affine if q_code > 0 else affine, code=q_code)
    if not q_code and not s_code and np.abs(header.get_base_affine() - affine).max() > PLACE_TOLERANCE_MM:
        header.set_sform(affine, code="aligned")
    return header


def _plain(value: Any) -> int:
    """A whole number, which may be wrapped in a batch of one."""
    return int(np.asarray(value).reshape(-1)[0])


def _without_shear(affine: np.ndarray, path: Path, shape: Sequence[int]) -> np.ndarray:
    """The nearest affine with orthogonal axes, as in a qform, so that both forms of a result are equal.

    Readers differ in which form they use, and some refuse a sheared one.
    """
    header = nib.Nifti1Header()
    header.set_qform(affine, code=1)
    straight = np.asarray(header.get_qform(), dtype=np.float64)
    corner = np.array([*(n - 1 for n in shape), 1])
    logging.getLogger(__name__).warning(
        "%s is slightly sheared and is treated as orthogonal: voxels lie up to %.2f mm from where its sform says",
        path.name, np.linalg.norm((straight - affine) @ corner),
    )  # fmt: skip
    return straight


def _header(image: nib.spatialimages.SpatialImage, path: Path, max_voxels: int) -> tuple[tuple[int, ...], np.ndarray]:
    """Read and check shape and affine, without reading the voxels."""
    if not isinstance(image, nib.Nifti1Pair):
        raise CaseError(
            Reason.NO_GEOMETRY, f"{path.name} must be a NIfTI image, which says where it is; convert it to .nii.gz"
        )
    header = image.header
    shape = check_shape(path.name, image.shape, max_voxels)
    _check_intent(int(header["intent_code"]), path)
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind not in "iuf":
        raise CaseError(Reason.NOT_3D, f"{path.name} must hold one number per voxel, got RGB or complex; convert it")
    if header.get_xyzt_units()[0] in ("meter", "micron"):
        raise CaseError(Reason.NO_GEOMETRY, f"{path.name} must be in mm, got {header.get_xyzt_units()[0]}; convert it")
    pixdim = _pixdim_on_disk(image)
    if not (np.isfinite(pixdim) & (pixdim > 0)).all():
        raise CaseError(
            Reason.NO_GEOMETRY, f"{path.name} must have voxel spacing > 0, got {pixdim.tolist()} mm; repair its header"
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    spacing = check_affine(path.name, affine)
    if header["sform_code"] > 0 and np.abs(spacing / pixdim - 1).max() > 0.01:
        raise CaseError(
            Reason.NO_GEOMETRY,
            f"{path.name} must have one voxel spacing, got {spacing.round(4).tolist()} mm in its sform and "
            f"{pixdim.round(4).tolist()} mm in its pixel dimensions (which the qform shares); repair its header",
        )
    cosines = affine[:3, :3] / spacing
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > SHEAR_TOLERANCE:
        affine = _without_shear(affine, path, shape)
    return shape, affine


def _check_intent(code: int, path: Path) -> None:
    """Refuse a file whose intent says that it is not an intensity image."""
    if code in LABELS:
        raise CaseError(Reason.LABEL_MAP, f"{path.name} must be an image, got a map of labels by its intent; leave it")
    if code in STATISTICS or code == ESTIMATE:
        message = f"{path.name} must be an image, got a statistic or estimate by its intent ({code}); leave it"
        raise CaseError(Reason.QUANTITATIVE, message)


def _check_compressed(image: nib.Nifti1Pair, path: Path) -> None:
    """Read a ``.gz`` file to its end to verify its checksum: nibabel stops at the last voxel and would not see it.

    Raises:
        CaseError: if it decompresses to far more than its header states (a decompression bomb).
        OSError: if the checksum is wrong, or the file is cut short.
    """
    if not path.name.lower().endswith(".gz"):
        return
    proxy: Any = image.dataobj
    announced = proxy.offset + np.prod(image.shape, dtype=np.int64) * image.get_data_dtype().itemsize
    total = 0
    with gzip.open(path) as file:
        while chunk := file.read(2**20):
            total += len(chunk)
            if total > announced + 2**20:
                raise CaseError(Reason.UNREADABLE, f"{path.name} must end with its last voxel, got more; repair it")


def _pixdim_on_disk(image: nib.Nifti1Pair) -> np.ndarray:
    """Voxel spacing as stored in the file, because nibabel turns 0 into 1 and drops signs when it loads a header."""
    files = image.file_map
    with files.get("header", files["image"]).get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    return np.asarray(header["pixdim"][1:4], dtype=np.float64)
