# SPDX-License-Identifier: Apache-2.0
"""Find volumes in single files other than DICOM, and read those that are not NIfTI strictly.

A format is supported if it states the position of its voxels with certainty: NIfTI, FreeSurfer's MGH, NRRD and
MetaImage. NRRD and MetaImage files that name another file for their data are refused, because that file may lie
anywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError

from .geometry import swap_lps_ras
from .nifti import NIFTI_SUFFIXES, read_nifti
from .reasons import CaseError, Reason
from .volume import KEPT_DTYPES, Volume, check_affine, check_finite, check_shape

__all__ = ["is_volume_file", "read_volume_file", "volume_stem"]

MGH_SUFFIXES = (".mgh", ".mgz", ".mgh.gz")
SUFFIXES = (*NIFTI_SUFFIXES, *MGH_SUFFIXES, ".nrrd", ".mha")
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
NRRD_TYPES = {
    name: kind
    for kind, names in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "f4": ("float",),
        "f8": ("double",),
    }.items()
    for name in names
}
MAX_HEADER_BYTES = 2**16


def _suffix(path: Path) -> str:
    """The suffix of the format, in lower case; empty for any other file."""
    name = path.name.lower()
    found = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")
    if found == ".hdr" and _data_of_pair(path) is None:
        return ""
    # ._x.nii.gz holds attributes that macOS keeps of x.nii.gz
    return "" if name.startswith("._") else found


def _data_of_pair(header: Path) -> Path | None:
    """The ``.img`` file beside a ``.hdr`` file."""
    beside = (header.with_suffix(suffix) for suffix in (".img", ".IMG"))
    return next((path for path in beside if path.is_file()), None)


def is_volume_file(path: Path) -> bool:
    """Whether the name of a file is that of a volume in one of the formats."""
    return bool(_suffix(path))


def volume_stem(path: Path) -> str:
    """File name without the suffix of its format."""
    return path.name[: len(path.name) - len(_suffix(path))]


def read_volume_file(path: Path, max_voxels: int = 2**30) -> Volume:
    """Read one 3D scan.

    Args:
        path: a file for which :func:`is_volume_file` holds.
        max_voxels: a larger volume is refused before anything is allocated.

    Returns:
        The volume in scanner units, axes as stored.

    Raises:
        CaseError: with the reason and a message that names the file.
    """
    suffix = _suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return read_nifti(path, max_voxels)
    readers: dict[str, Callable[[Path, int], Volume]] = {".nrrd": _read_nrrd, ".mha": _read_metaimage}
    try:
        volume = readers.get(suffix, _read_mgh)(path, max_voxels)
    except CaseError:
        raise
    except Exception as error:  # the parsers raise anything on damaged files
        kind = type(error).__name__
        raise CaseError(
            Reason.UNREADABLE, f"{path.name} must be a readable image, got {kind}; copy it again"
        ) from error
    check_affine(path.name, volume.affine_ras)
    check_finite(path.name, volume.array)
    return volume


def _no_geometry(path: Path, what: str) -> CaseError:
    return CaseError(Reason.NO_GEOMETRY, f"{path.name} must state {what}; export it again")


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    native = dtype.newbyteorder("=")
    return native if native.name in KEPT_DTYPES else np.dtype(np.float32)


def _read_mgh(path: Path, max_voxels: int) -> Volume:
    try:
        image: Any = nib.load(path)
    except ImageFileError:
        image = nib.MGHImage.from_filename(path)  # a suffix in capitals
    shape = check_shape(path.name, image.shape, max_voxels)
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        good = file.read(30)[28:]  # if the flag is missing, nibabel sets it and an orientation of its own
    if good != b"\0\1":
        raise _no_geometry(path, "where its voxels are (goodRASFlag)")
    array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    return Volume(array, np.asarray(image.affine, dtype=np.float64), _stored_dtype(image.get_data_dtype()))


def _read_nrrd(path: Path, max_voxels: int) -> Volume:
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if "data file" in header or "datafile" in header:
            raise CaseError(
                Reason.UNREADABLE, f"{path.name} must hold its own data, got a name of another file; join them"
            )
        shape = check_shape(path.name, header["sizes"], max_voxels)
        space = str(header.get("space", "")).lower().replace("_", "-")
        signs = {
            "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1), "right-anterior-superior": (1, 1, 1),
            "ras": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
        }.get(space)  # fmt: skip
        directions, origin = header.get("space directions"), header.get("space origin")
        if signs is None or directions is None or origin is None:
            raise _no_geometry(path, "its space (left-posterior-superior or the like), directions and origin")
        if any(str(unit).lower() != "mm" for unit in header.get("space units", ())):
            raise CaseError(Reason.NO_GEOMETRY, f"{path.name} must be in mm, got other space units; convert it")
        dtype = np.dtype(NRRD_TYPES[str(header["type"])])
        if dtype.itemsize > 1:
            dtype = dtype.newbyteorder("<" if header["endian"] == "little" else ">")
        data = _data(file, dtype.itemsize * int(np.prod(shape)), str(header["encoding"]).lower(), path)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.asarray(directions, dtype=np.float64).T, origin
    affine = np.diag([*signs, 1]) @ affine
    return _volume(data, dtype, shape, affine)


def _read_metaimage(path: Path, max_voxels: int) -> Volume:
    """Read MetaImage as ITK writes it (https://itk.org/Wiki/ITK/MetaIO/Documentation); it uses LPS, as DICOM does."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(MAX_HEADER_BYTES)
            key, sign, value = line.decode("ascii").partition("=")
            if not sign or file.tell() > MAX_HEADER_BYTES:
                raise CaseError(
                    Reason.UNREADABLE, f"{path.name} must begin with the header of a MetaImage; copy it again"
                )
            fields[key.strip()] = value.strip()
        if fields["ElementDataFile"] != "LOCAL":
            raise CaseError(
                Reason.UNREADABLE, f"{path.name} must hold its own data, got a name of another file; join them"
            )
        if fields.get("ElementNumberOfChannels", "1") != "1":
            raise CaseError(Reason.NOT_3D, f"{path.name} must hold one number per voxel, got several; convert it")
        shape = check_shape(path.name, [int(n) for n in fields["DimSize"].split()], max_voxels)
        matrix, origin, spacing = (
            [float(v) for v in fields.get(key, "").split()] for key in ("TransformMatrix", "Offset", "ElementSpacing")
        )
        if (len(matrix), len(origin), len(spacing)) != (9, 3, 3):
            raise _no_geometry(path, "TransformMatrix, Offset and ElementSpacing")
        big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() == "true"
        dtype = np.dtype((">" if big else "<") + META_TYPES[fields["ElementType"]])
        encoding = "zlib" if fields.get("CompressedData", "False").lower() == "true" else "raw"
        data = _data(file, dtype.itemsize * int(np.prod(shape)), encoding, path)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(matrix, (3, 3)).T * spacing  # one line of the file is one axis of the image
    affine[:3, 3] = origin
    return _volume(data, dtype, shape, swap_lps_ras(affine))


def _volume(data: bytes, dtype: np.dtype, shape: tuple[int, int, int], affine_ras: np.ndarray) -> Volume:
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F").astype(np.float32)
    return Volume(array, affine_ras, _stored_dtype(dtype))


def _data(file: BinaryIO, size: int, encoding: str, path: Path) -> bytes:
    """Read the rest of a file, which must hold exactly ``size`` bytes after decompression.

    Raises:
        CaseError: ``UNREADABLE`` for an encoding other than raw, gzip and zlib; ``TRUNCATED``.
    """
    if encoding == "raw":
        data = file.read(size + 1)
    elif encoding in ("gzip", "gz", "zlib"):
        data = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(file.read(), size + 1)
    else:
        raise CaseError(Reason.UNREADABLE, f"{path.name} must be raw or compressed by gzip, got {encoding}; convert it")
    if len(data) != size:
        more = "more" if len(data) > size else f"{len(data)}"
        raise CaseError(Reason.TRUNCATED, f"{path.name} must hold {size} bytes of voxels, got {more}; copy it again")
    return data
