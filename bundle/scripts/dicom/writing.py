# SPDX-License-Identifier: Apache-2.0
"""A super-resolved volume as a derived MR series: classic MR Image Storage, one file per thin slice.

The geometry comes from the affine. Facts about patient, study and acquisition come from an explicit list of the
source's attributes (:mod:`scripts.dicom.attributes`). Everything else is made here. ``docs/dicom_conformance.md`` lists
every attribute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from ..geometry import swap_lps_ras, voxel_spacing_mm
from ..reasons import CaseError, Reason
from .attributes import ACQUISITION, LOSSY, PATIENT_AND_STUDY, REQUIRED_EMPTY, copy_constant
from .discovery import SeriesCandidate
from .frames import FRAME_KEYWORDS, FRAME_TAGS, slice_datasets
from .headers import Header
from .parsing import open_dicom, quiet, scan_dataset
from .pixels import padding_values, scanner_units
from .uids import derived_uid

__all__ = ["Provenance", "Written", "save_instance", "stored_values", "write_series"]

MAX_INFLATED_BYTES = 2**27
# attributes that are read from the source: those that may be taken over, and those that others are derived from
MADE_FROM = (
    "ImageOrientationPatient", "ImagePositionPatient", "ImageType", "Laterality", "PhotometricInterpretation",
    "PixelRepresentation", "PixelSpacing", "RescaleIntercept", "RescaleSlope", "RescaleType", "Rows", "Columns",
    "SOPClassUID", "SOPInstanceUID", "SeriesDescription", "SeriesInstanceUID", "SpacingBetweenSlices", "WindowCenter",
    "WindowWidth",
)  # fmt: skip
WANTED_TAGS: list[Any] = [
    *(tag_for_keyword(word) for word in (*PATIENT_AND_STUDY, *ACQUISITION, *LOSSY, *MADE_FROM, *FRAME_KEYWORDS)),
    *FRAME_TAGS,
]
PIXEL_TOLERANCE_MM = 1e-5  # if the in-plane grid differs by less, the source's strings are kept


@dataclass(frozen=True)
class Provenance:
    """What made the series; its UIDs are hashed from this.

    Attributes:
        software: name of the bundle.
        version: version of the bundle.
        model_sha256: hexadecimal digest of the weights.
        config_sha256: hexadecimal digest of the settings.
        derived_at: time of derivation; the caller keeps it, so that a run that is resumed writes the same bytes.
        interpolated: whether the voxels are those of cubic interpolation, because the self-check preferred it.
    """

    software: str
    version: str
    model_sha256: str
    config_sha256: str
    derived_at: datetime
    interpolated: bool = False


@dataclass(frozen=True)
class Written:
    """What :func:`write_series` did.

    Attributes:
        files: in order of position.
        series_uid: of the derived series.
        clipped_voxels: number of voxels that did not fit into 16 bits.
    """

    files: tuple[Path, ...]
    series_uid: str
    clipped_voxels: int


def write_series(
    folder: Path,
    array: np.ndarray,
    affine_ras: np.ndarray,
    source: SeriesCandidate,
    provenance: Provenance,
    scale_factor: float,
) -> Written:
    """Write one file per slice along the third axis.

    Args:
        folder: is created, or is empty; the caller renames it when all files are written.
        array: ``(columns, rows, slices)`` in scanner units, on the fine grid; padded voxels hold the source's padding.
        affine_ras: ``(4, 4)`` of the array.
        source: what the volume was made from; the headers of its files are read again to take over attributes.
        provenance: see :class:`Provenance`.
        scale_factor: K, slice spacing over thin spacing.

    Returns:
        What was written.

    Raises:
        ValueError: if the array is not 3D and finite.
        CaseError: ``CHANGED`` if a source file has changed since discovery.
    """
    if array.ndim != 3 or not np.isfinite(array).all():
        raise ValueError(f"array must be a finite (columns, rows, slices) volume, got shape {array.shape}")
    sources = _sources(source.slices)
    values, clipped, rescale = stored_values(array, sources)
    folder.mkdir(parents=True, exist_ok=True)
    facts = [_instance(header) for header in source.slices]
    facts += [provenance.software, provenance.version, provenance.model_sha256, provenance.config_sha256]
    facts += [f"{scale_factor:.6g}", str(source.derived_number)]
    series_uid = derived_uid(*facts, "series")
    common = _common(source, sources, provenance, series_uid, scale_factor)
    _grid(common, sources, affine_ras, values)
    common.update(rescale)
    _padding(common, source.slices, values)
    lps = swap_lps_ras(affine_ras)
    normal = lps[:3, 2] / np.linalg.norm(lps[:3, 2])
    files = []
    for k in range(array.shape[2]):
        ds = Dataset()
        ds.update(common)
        ds.SOPInstanceUID = derived_uid(*facts, str(k))
        ds.InstanceNumber = k + 1
        position = lps[:3, 2] * k + lps[:3, 3]
        ds.ImagePositionPatient = [_number(v) for v in position]
        ds.SliceLocation = _number(position @ normal)
        plane = np.ascontiguousarray(values[:, :, k].T)
        ds.add_new("SmallestImagePixelValue", "SS" if values.dtype.kind == "i" else "US", int(plane.min()))
        ds.add_new("LargestImagePixelValue", "SS" if values.dtype.kind == "i" else "US", int(plane.max()))
        ds.PixelData = plane.astype(values.dtype.newbyteorder("<")).tobytes()
        files.append(folder / f"{k + 1:05d}.dcm")
        save_instance(ds, files[-1])
    return Written(tuple(files), series_uid, clipped)


def stored_values(array: np.ndarray, sources: Sequence[Dataset]) -> tuple[np.ndarray, int, Dataset]:
    """Integers to store, and the rescale that turns them into scanner units.

    A rescale of the source is kept if all slices share it; otherwise there is none. Values are rounded to 16 bits,
    which are signed if those of the source are or a value is negative. Values that do not fit are clipped and counted.

    Args:
        array: any shape, in scanner units.
        sources: headers of the source.

    Returns:
        ``uint16`` or ``int16`` array, number of clipped voxels, and the rescale attributes (may be empty).
    """
    rescale = Dataset()
    pairs = {(float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))) for ds in sources}
    slope, intercept = pairs.pop() if len(pairs) == 1 else (1.0, 0.0)
    if (slope, intercept) != (1.0, 0.0):
        rescale.RescaleSlope, rescale.RescaleIntercept = _number(slope), _number(intercept)
        rescale.RescaleType = str(sources[0].get("RescaleType", "US"))
    rounded = np.rint((np.asarray(array, dtype=np.float64) - intercept) / slope)
    signed = any(ds.get("PixelRepresentation") == 1 for ds in sources) and rounded.max() <= np.iinfo(np.int16).max
    dtype = np.dtype(np.int16 if signed or rounded.min() < 0 else np.uint16)
    info = np.iinfo(dtype)
    clipped = int(np.count_nonzero((rounded < info.min) | (rounded > info.max)))
    return np.clip(rounded, info.min, info.max).astype(dtype), clipped, rescale


def _sources(slices: Sequence[Header]) -> list[Dataset]:
    """For each slice, the attributes that the derived series may take over, named as in a classic image."""
    found: dict[tuple[Path, int], Dataset] = {}
    for path in dict.fromkeys(header.path for header in slices):
        try:
            with quiet(), open_dicom(path, MAX_INFLATED_BYTES) as (file, syntax, sop_class, stamp):
                dataset, _, _ = scan_dataset(file, syntax, WANTED_TAGS)
                dataset.SOPClassUID = dataset.get("SOPClassUID") or sop_class
                found |= {(path, frame): one for one, frame, _ in slice_datasets(dataset)}
        except FileNotFoundError as error:
            raise CaseError(Reason.CHANGED, "a series must stay where it is until it is done; run again") from error
        if any(header.stamp != stamp for header in slices if header.path == path):
            message = "a series must stay as it is until it is done, but a file has changed; run again later"
            raise CaseError(Reason.CHANGED, message)
    return [found[header.path, header.frame] for header in slices]


def _instance(header: Header) -> str:
    """Identifier of a slice: its SOP instance UID, and the number of its frame if there are several."""
    return header.sop_instance if header.frames == 1 else f"{header.sop_instance} frame {header.frame + 1}"


def _common(
    source: SeriesCandidate, sources: Sequence[Dataset], provenance: Provenance, series_uid: str, scale_factor: float
) -> Dataset:
    """All attributes that are the same on every slice, except those of the grid."""
    first = sources[0]
    moment = provenance.derived_at
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    ds = Dataset()
    copy_constant(sources, ds, (*PATIENT_AND_STUDY, *ACQUISITION, *LOSSY))
    for keyword in REQUIRED_EMPTY:
        if keyword not in ds:
            setattr(ds, keyword, None)
    for keyword, value in (("ScanningSequence", "RM"), ("SequenceVariant", "NONE")):
        if keyword not in ds:  # type 1; "research mode" and "no variant" stand for unknown
            setattr(ds, keyword, value)
    if str(ds.get("LossyImageCompression", "")) == "00":
        for keyword in LOSSY[1:]:
            ds.pop(keyword, None)
    if "FrameOfReferenceUID" not in ds:  # type 1, but old scanners omit it; derived from the source's series
        ds.FrameOfReferenceUID = derived_uid(str(first.SeriesInstanceUID), "frame of reference")
    copy_constant(sources, ds, ("Laterality",))
    if "Laterality" not in ds and "BodyPartExamined" not in ds:  # type 2C: it might be one of a pair
        ds.Laterality = None
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER", "SR"]
    ds.SeriesInstanceUID = series_uid
    ds.SeriesNumber = source.derived_number
    description = str(first.get("SeriesDescription", "") or "MR")
    suffix = (
        f"{source.key[16:].replace('-', ' ')} SR x{scale_factor:.3g} {'cubic' if provenance.interpolated else 'AI'}"
    )
    ds.SeriesDescription = description[: 64 - len(suffix)].rstrip() + suffix
    ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = date
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = time
    how = (
        "cubic interpolation with data consistency, since the self-check found it nearer the truth than the"
        if provenance.interpolated
        else "a"
    )
    ds.DerivationDescription = (
        f"{provenance.software} {provenance.version}: {scale_factor:.3g} thin slices for each thick one by {how} "
        f"neural network, weights SHA-256 {provenance.model_sha256}. Slices between acquired ones are estimates. "
        "Not for diagnosis."
    )
    codes = [_code("113085", "DCM", "Spatial resampling")]
    if not provenance.interpolated:
        codes.append(_code("123110", "DCM", "Artificial Intelligence"))
    ds.DerivationCodeSequence = DicomSequence(codes)
    ds.SourceImageSequence = DicomSequence(_references(source.slices, purpose=True))
    series = Dataset()
    series.SeriesInstanceUID = str(first.SeriesInstanceUID)
    series.ReferencedInstanceSequence = DicomSequence(_references(source.slices, purpose=False))
    ds.ReferencedSeriesSequence = DicomSequence([series])
    ds.ContributingEquipmentSequence = DicomSequence([_equipment(provenance)])
    _look(ds, source, sources)
    return ds


def _look(ds: Dataset, source: SeriesCandidate, sources: Sequence[Dataset]) -> None:
    """Take over the source's windows if all slices share them; centres are mirrored if the values are inverted."""
    window = Dataset()
    copy_constant(sources, window, ("WindowCenter", "WindowWidth"))
    centres, widths = (np.atleast_1d(window.get(keyword, ())) for keyword in ("WindowCenter", "WindowWidth"))
    if len(centres) != len(widths) or not len(widths) or min(map(float, widths)) < 1:
        return
    first = source.slices[0]
    if any(header.photometric == "MONOCHROME1" for header in source.slices):
        if len({(h.photometric, h.slope, h.intercept, h.signed, h.bits_stored) for h in source.slices}) > 1:
            return
        # a stored value s has become -1 - s or 2^bits - 1 - s
        mirrored = (-1 if first.signed else 2**first.bits_stored - 1) * first.slope + 2 * first.intercept
        window.WindowCenter = [_number(mirrored - float(centre)) for centre in centres]
    ds.update(window)


def _grid(ds: Dataset, sources: Sequence[Dataset], affine_ras: np.ndarray, values: np.ndarray) -> None:
    """Attributes of grid and pixels, except the position of each slice."""
    lps = swap_lps_ras(affine_ras)
    spacing = voxel_spacing_mm(affine_ras)
    cosines = (lps[:3, :3] / spacing).T[:2].ravel()
    own = np.asarray(sources[0].ImageOrientationPatient, dtype=float)
    same = len({tuple(map(str, source.ImageOrientationPatient)) for source in sources}) == 1
    keeps = same and np.allclose(cosines, own, atol=1e-6)
    ds.ImageOrientationPatient = list(sources[0].ImageOrientationPatient) if keeps else [_number(c) for c in cosines]
    pixel = [float(v) for v in sources[0].PixelSpacing]
    keeps = np.allclose(pixel, spacing[[1, 0]], atol=PIXEL_TOLERANCE_MM)
    ds.PixelSpacing = list(sources[0].PixelSpacing) if keeps else [_number(spacing[1]), _number(spacing[0])]
    ds.SliceThickness = ds.SpacingBetweenSlices = _number(spacing[2])
    ds.Columns, ds.Rows = values.shape[:2]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(values.dtype.kind == "i")


def _padding(ds: Dataset, slices: Sequence[Header], values: np.ndarray) -> None:
    """State which value is padding, if the source has padded voxels."""
    padding = padding_values(slices[0])
    if padding is None:
        return
    in_scanner_units = scanner_units(slices[0], np.array(padding[0]))
    stored = round((float(in_scanner_units) - float(ds.get("RescaleIntercept", 0))) / float(ds.get("RescaleSlope", 1)))
    if (values == stored).any():
        ds.add_new("PixelPaddingValue", "SS" if ds.PixelRepresentation else "US", stored)


def _number(value: float) -> str:
    """Decimal string of at most 16 characters."""
    return format_number_as_ds(float(value))


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def _references(slices: Sequence[Header], purpose: bool) -> list[Dataset]:
    """One item per file; with ``purpose``, also the numbers of its frames."""
    items = []
    for path in dict.fromkeys(header.path for header in slices):
        members = [header for header in slices if header.path == path]
        ds = Dataset()
        ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = members[0].sop_class, members[0].sop_instance
        if purpose:
            if members[0].frames > 1:
                ds.ReferencedFrameNumber = sorted(header.frame + 1 for header in members)
            ds.PurposeOfReferenceCodeSequence = DicomSequence(
                [_code("121322", "DCM", "Source image for image processing operation")]
            )
        items.append(ds)
    return items


def _equipment(provenance: Provenance) -> Dataset:
    ds = Dataset()
    ds.PurposeOfReferenceCodeSequence = DicomSequence([_code("109102", "DCM", "Processing Equipment")])
    ds.Manufacturer = "The developers of this bundle"
    ds.ManufacturerModelName = provenance.software[:64]
    ds.SoftwareVersions = provenance.version
    ds.ContributionDateTime = provenance.derived_at.strftime("%Y%m%d%H%M%S%z")
    ds.ContributionDescription = f"super-resolution along the slice axis, settings SHA-256 {provenance.config_sha256}"
    return ds


def save_instance(ds: Dataset, path: Path) -> None:
    """Write a file in explicit little endian with a preamble of zeros, and flush it to the disk."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with path.open("xb") as file:
        ds.save_as(file, enforce_file_format=True)
        file.flush()
        os.fsync(file.fileno())
