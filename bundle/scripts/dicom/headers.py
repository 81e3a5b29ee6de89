# SPDX-License-Identifier: Apache-2.0
"""The facts of each slice in a DICOM file, read without its pixels.

This module never passes on a patient's data in clear text: identities are hashed, and no message quotes free text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage, UID_dictionary

from ..reasons import CaseError, Reason
from .anatomy import BODY_PART_KEYWORDS, body_part
from .diffusion import DIFFUSION_TAGS, diffusion_weighting
from .frames import FRAME_KEYWORDS, FRAME_TAGS, Slice, slice_datasets
from .parsing import PixelElement, open_dicom, quiet, scan_dataset, truncated
from .tree import Stamp
from .values import codes_of, finite_of, integer_of, numbers_of, text_of, vector_of, vendor_text

__all__ = ["Header", "first_acquired", "hashed", "read_headers", "uid_name"]

GE_IMAGE_KIND = 0x0043102F
COMPONENTS = {"", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "MIXED"}
GE_COMPONENTS = {"1": "PHASE", "2": "REAL", "3": "IMAGINARY"}

# attributes of one volume's slices that must not differ: (keyword, relative tolerance; None for text)
ACQUISITION = (
    ("ScanningSequence", None),
    ("FlipAngle", 0.01),
    ("InversionTime", 0.01),
    ("MagneticFieldStrength", 0.01),
    ("KVP", 0.01),
    ("ConvolutionKernel", None),
)
# attributes that may distinguish time points if several images share a position
TIMES = (
    "AcquisitionNumber",
    "TriggerTime",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "DimensionIndexValues",
    "InstanceNumber",
)
LOSSY_COMPRESSION = "113040"
SOURCES = ("DerivationCodeSequence", "DerivationDescription", "SourceImageSequence")
IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "IssuerOfPatientID", "StudyInstanceUID")
KEYWORDS: tuple[str, ...] = (
    *IDENTITY,
    *TIMES,
    *(keyword for keyword, _ in ACQUISITION),
    *BODY_PART_KEYWORDS,
    *FRAME_KEYWORDS,
    "BitsAllocated",
    "BitsStored",
    "Columns",
    *SOURCES,
    "EchoNumbers",
    "EchoTime",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "ImagesInAcquisition",
    "InstanceNumber",
    "LossyImageCompression",
    "Manufacturer",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RealWorldValueMappingSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SliceThickness",
    "SpecificCharacterSet",
    "SpacingBetweenSlices",
    "TemporalPositionIdentifier",
)
PRIVATE_CREATORS = tuple(group << 16 | 0x10 for group in (0x0019, 0x0029, 0x0043, 0x0065, 0x2001, 0x2005))
WANTED_TAGS: list[Any] = [
    *dict.fromkeys(cast(int, tag_for_keyword(keyword)) for keyword in KEYWORDS),
    *PRIVATE_CREATORS, *DIFFUSION_TAGS, *FRAME_TAGS, GE_IMAGE_KIND,
]  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Facts of one slice, which is a file, a frame, or a tile of a mosaic. A number that is absent, empty or not finite
    is None.

    Attributes:
        path: the file.
        stamp: its size and time of modification.
        error: why the file cannot be used although its series is known; else ``None``.
        study: hash of the study's UID.
        series_number: as the source states it.
        identity: hash of patient and study.
        patient: hash of the patient's identifier, or of the study if there is none.
        orientation: direction cosines along a row, then along a column (LPS).
        position: centre of the first voxel in mm (LPS).
        spacing: in mm, between rows, then between columns.
        padding: stored values, as in PixelData, that mean "not measured": the two ends of their range.
        volume_facts: must be equal in all slices of a volume: name and value (text, or number or None).
        times: attributes that may distinguish time points, by keyword; empty string if absent.
        stack_id: the stack of a multi-frame object that it belongs to; empty if not stated.
        b_value: diffusion weighting in s/mm2, if stated.
        gradient: direction of the diffusion weighting, if stated and not 0.
        volumetric: what a multi-frame object states about its geometry and how its values were computed; upper case.
        body_part: word of :mod:`scripts.dicom.anatomy`; empty if unknown.
        units: units of a real-world value mapping, upper case.
        derivation: code values of how it was derived.
        has_sources: whether it states what it was made from, or how (other than by lossy compression).
        component: phase, real or imaginary, if it states that its values are one of these.
        frames: number of frames in its PixelData; ``frame`` is the index of this one.
        tile: ``(side, index)`` in a mosaic of ``side`` x ``side`` slices, counted along its rows.
    """

    path: Path
    stamp: Stamp
    error: CaseError | None
    transfer_syntax: str
    sop_class: str
    sop_instance: str
    series: str
    frame_of_reference: str
    study: str
    series_number: int | None
    identity: str
    patient: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    slope: float
    intercept: float
    lossy: bool
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    padding: tuple[int, int] | None
    slice_thickness: float | None
    echo_number: str
    echo_time: float | None
    temporal_position: str
    times: dict[str, str]
    stack_id: str
    b_value: float | None
    gradient: tuple[float, ...] | None
    volumetric: tuple[str, ...]
    body_part: str
    volume_facts: tuple[tuple[str, str | float | None], ...]
    instance_number: int | None
    images_in_acquisition: int | None
    units: tuple[str, ...]
    derivation: tuple[str, ...]
    has_sources: bool
    component: str
    frames: int
    frame: int
    tile: tuple[int, int] | None
    pixels: PixelElement | None

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the stored image; that of a mosaic is larger than the slice."""
        side = self.tile[0] if self.tile else 1
        return side * self.rows, side * self.columns

    @property
    def multi_frame(self) -> bool:
        """Whether the file holds other slices as well."""
        return self.frames > 1 or self.tile is not None


def hashed(text: str) -> str:
    """First 16 hex digits of the SHA-256, which stand for an identity everywhere outside the file."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def first_acquired(headers: Iterable[Header]) -> tuple:
    """Sort key that puts groups of slices into the order of acquisition, as far as their numbers show it."""
    return min(
        (math.inf if h.instance_number is None else h.instance_number, h.frame, h.position or ()) for h in headers
    )


def uid_name(uid: str) -> str:
    """Name of a registered UID. Any other UID is not quoted, since it may hold any text."""
    return UID_dictionary[uid][0] if uid in UID_dictionary else "an unknown UID"


def read_headers(path: Path, max_inflated_bytes: int = 2**27) -> list[Header]:
    """Read the facts of every slice of one file.

    Args:
        path: a regular file.
        max_inflated_bytes: see :func:`scripts.dicom.parsing.open_dicom`.

    Returns:
        One header per slice, at least one. ``error`` says why the file cannot be used; ``series`` is empty if it cannot
        be read.

    Raises:
        CaseError: ``NOT_AN_IMAGE`` if it is no DICOM image; ``TRUNCATED``, ``UNREADABLE``, ``TOO_LARGE``,
            ``NOT_A_FILE`` or ``CHANGED`` if it cannot be read at all.
    """
    try:
        with quiet(), open_dicom(path, max_inflated_bytes) as (file, syntax, sop_class, stamp):
            dataset, pixels, error = scan_dataset(file, syntax, WANTED_TAGS)
            return _headers(path, stamp, syntax, sop_class, dataset, pixels, error)
    except CaseError:
        raise
    except FileNotFoundError as error:
        message = "a file must stay where it is while it is read, but it was removed; run again"
        raise CaseError(Reason.CHANGED, message) from error
    except Exception as error:  # pydicom raises anything on damaged files, and its messages quote values
        message = f"a DICOM header must be readable, got {type(error).__name__}; copy or export it again"
        raise CaseError(Reason.UNREADABLE, message) from None


def _headers(
    path: Path,
    stamp: Stamp,
    syntax: UID,
    sop_class: str,
    ds: Dataset,
    pixels: PixelElement | None,
    error: CaseError | None,
) -> list[Header]:
    ds.SOPClassUID = sop_class = text_of(ds, "SOPClassUID") or sop_class
    if not sop_class or sop_class == MediaStorageDirectoryStorage:
        raise error or CaseError(Reason.NOT_AN_IMAGE, "an input must be an image, got a DICOMDIR or a similar file")
    slices: list[Slice] = [(ds, 0, None)]
    frame_error = None
    if error is None and pixels is not None:
        try:
            slices = slice_datasets(ds)
        except CaseError as caught:
            frame_error = caught
    headers = [_facts(path, stamp, syntax, one, frame, tile, pixels) for one, frame, tile in slices]
    return [
        replace(h, error=error or _unusable(h, one[0]) or frame_error) for h, one in zip(headers, slices, strict=True)
    ]


def _facts(
    path: Path,
    stamp: Stamp,
    syntax: UID,
    ds: Dataset,
    frame: int,
    tile: tuple[int, int] | None,
    pixels: PixelElement | None,
) -> Header:
    rows, columns = integer_of(ds, "Rows"), integer_of(ds, "Columns")
    slope, intercept = numbers_of(ds, "RescaleSlope") or (1.0,), numbers_of(ds, "RescaleIntercept") or (0.0,)
    patient = text_of(ds, "PatientID")
    b_value, gradient = diffusion_weighting(ds)
    return Header(
        path=path,
        stamp=stamp,
        error=None,
        transfer_syntax=str(syntax),
        sop_class=text_of(ds, "SOPClassUID"),
        sop_instance=text_of(ds, "SOPInstanceUID"),
        series=text_of(ds, "SeriesInstanceUID"),
        frame_of_reference=text_of(ds, "FrameOfReferenceUID"),
        study=hashed(text_of(ds, "StudyInstanceUID")),
        series_number=integer_of(ds, "SeriesNumber") if finite_of(ds, "SeriesNumber") is not None else None,
        identity=hashed("\0".join(text_of(ds, keyword) for keyword in IDENTITY)),
        patient=hashed(patient or text_of(ds, "StudyInstanceUID")),
        modality=text_of(ds, "Modality"),
        image_type=tuple(value.strip().upper() for value in text_of(ds, "ImageType").split("\\")),
        rows=rows,
        columns=columns,
        samples=integer_of(ds, "SamplesPerPixel", 1),
        bits_allocated=integer_of(ds, "BitsAllocated"),
        bits_stored=integer_of(ds, "BitsStored"),
        high_bit=integer_of(ds, "HighBit", integer_of(ds, "BitsStored") - 1),
        signed=integer_of(ds, "PixelRepresentation") == 1,
        photometric=text_of(ds, "PhotometricInterpretation").upper(),
        slope=slope[0],
        intercept=intercept[0],
        lossy=text_of(ds, "LossyImageCompression") == "01",
        orientation=vector_of(ds, "ImageOrientationPatient", 6),
        position=vector_of(ds, "ImagePositionPatient", 3),
        spacing=vector_of(ds, "PixelSpacing", 2),
        padding=_padding(ds),
        slice_thickness=finite_of(ds, "SliceThickness"),
        echo_number=text_of(ds, "EchoNumbers"),
        echo_time=finite_of(ds, "EchoTime"),
        temporal_position=text_of(ds, "TemporalPositionIdentifier"),
        times={keyword: text_of(ds, keyword) for keyword in TIMES},
        stack_id=text_of(ds, "StackID"),
        b_value=b_value,
        gradient=gradient,
        volumetric=tuple(text_of(ds, k).upper() for k in ("VolumetricProperties", "VolumeBasedCalculationTechnique")),
        body_part=body_part(ds),
        volume_facts=_volume_facts(ds),
        instance_number=integer_of(ds, "InstanceNumber") if finite_of(ds, "InstanceNumber") is not None else None,
        images_in_acquisition=integer_of(ds, "ImagesInAcquisition") or None,
        units=codes_of(ds, "RealWorldValueMappingSequence", "MeasurementUnitsCodeSequence"),
        derivation=codes_of(ds, "DerivationCodeSequence"),
        has_sources=any(ds.get(keyword) for keyword in SOURCES) and codes_of(ds, SOURCES[0]) != (LOSSY_COMPRESSION,),
        component=_component(ds),
        frames=integer_of(ds, "NumberOfFrames", 1),
        frame=frame,
        tile=tile,
        pixels=pixels,
    )


def _unusable(header: Header, ds: Dataset) -> CaseError | None:
    """Why the pixels of a file cannot be read exactly, as far as its header shows; ``None`` if they can."""
    if header.pixels is None:
        return truncated("ends before its pixels")
    if not header.sop_instance or not header.series:
        return CaseError(Reason.UNREADABLE, "an image must have the UIDs of its series and of itself; export it again")
    if not (math.isfinite(header.slope) and math.isfinite(header.intercept)) or header.slope == 0:
        found = f"slope {header.slope:g} and intercept {header.intercept:g}"
        return CaseError(Reason.NONFINITE, f"rescale must be finite and not 0, got {found}; export it again")
    if text_of(ds, "ComplexImageComponent").upper() not in COMPONENTS:
        what = f"one of {', '.join(sorted(COMPONENTS - {''}))}"
        return CaseError(Reason.UNREADABLE, f"ComplexImageComponent must be {what}, but it is none; export it again")
    if "ModalityLUTSequence" in ds:
        return CaseError(Reason.UNREADABLE, "a modality look-up table is not supported; export with a rescale slope")
    return None


def _padding(ds: Dataset) -> tuple[int, int] | None:
    """Stored values that are padding.

    Writers confuse the types US and SS of these two attributes. So a value outside the range of the pixels is replaced
    by the value inside it that has the same bits.
    """
    ends = [finite_of(ds, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return None
    span = 1 << integer_of(ds, "BitsAllocated", 16)
    low = -(span // 2) if integer_of(ds, "PixelRepresentation") == 1 else 0
    value, limit = ((int(end) - low) % span + low for end in (ends[0], ends[0] if ends[1] is None else ends[1]))
    return value, limit


def _volume_facts(ds: Dataset) -> tuple[tuple[str, str | float | None], ...]:
    return tuple(
        (keyword, text_of(ds, keyword) if tolerance is None else finite_of(ds, keyword))
        for keyword, tolerance in ACQUISITION
    )


def _component(ds: Dataset) -> str:
    """Phase, real or imaginary, from the standard's attribute or GE's; empty for magnitude."""
    stated = text_of(ds, "ComplexImageComponent").upper()
    return stated if stated not in ("", "MAGNITUDE") else GE_COMPONENTS.get(vendor_text(ds, GE_IMAGE_KIND), "")
