# SPDX-License-Identifier: Apache-2.0
"""Convert files that hold several slices into one classic dataset per slice.

Enhanced and Legacy Converted objects describe their frames in functional groups. Here each frame gets the attributes
that a classic image would have, so that no later step needs to know the difference. A Siemens mosaic tiles the slices
of a volume into one image; the position of each slice follows from the vendor's own header (CSA).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from ..reasons import CaseError, Reason
from .values import finite_of, integer_of, text_of, vector_of, vendor_text

with (
    warnings.catch_warnings()
):  # nibabel warns that its DICOM readers are experimental; its parser of CSA headers has been stable for years
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

__all__ = ["FRAME_KEYWORDS", "FRAME_TAGS", "Slice", "slice_datasets"]

Slice = tuple[Dataset, int, tuple[int, int] | None]

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
# functional groups whose one item holds attributes that a classic image has at its top level
MACROS = (
    "CTImageFrameTypeSequence", "CTReconstructionSequence", "CTXRayDetailsSequence", "CardiacSynchronizationSequence",
    "FrameAnatomySequence", "FrameContentSequence", "FrameVOILUTSequence", "MRAveragesSequence", "MRDiffusionSequence",
    "MREchoSequence", "MRFOVGeometrySequence", "MRImageFrameTypeSequence", "MRImagingModifierSequence",
    "MRModifierSequence", "MRTimingAndRelatedParametersSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "PlaneOrientationSequence", "PlanePositionSequence",
    "TemporalPositionSequence", "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)  # fmt: skip
KEPT_SEQUENCES = ("RealWorldValueMappingSequence",)
# the attribute of a classic image, and the attribute of a frame with the same meaning
CLASSIC_NAMES = (
    ("ImageType", "FrameType"),
    ("EchoTime", "EffectiveEchoTime"),
    ("InversionTime", "InversionTimes"),
    ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    ("AcquisitionNumber", "FrameAcquisitionNumber"),
    ("AcquisitionDateTime", "FrameAcquisitionDateTime"),
    ("TriggerTime", "NominalCardiacTriggerDelayTime"),
    ("ImagedNucleus", "ResonantNucleus"),
    ("ImagingFrequency", "TransmitterFrequency"),
)
SPATIAL_DIMENSIONS = {0x00209056, 0x00209057, 0x00200032, 0x00200037, 0x00209113, 0x00209116}
FRAME_KEYWORDS = (
    SHARED, PER_FRAME, "DimensionIndexSequence", "NumberOfFrames", "ComplexImageComponent", "VolumetricProperties",
    "VolumeBasedCalculationTechnique", "EchoPulseSequence", "InversionRecovery", "EchoPlanarPulseSequence",
    "StackID", "DiffusionBValue", "DiffusionGradientOrientation", *(name for pair in CLASSIC_NAMES for name in pair),
)  # fmt: skip
SIEMENS_MOSAIC, SIEMENS_CSA = 0x0019100A, 0x00291010
FRAME_TAGS = (SIEMENS_MOSAIC, SIEMENS_CSA)


def slice_datasets(ds: Dataset) -> list[Slice]:
    """The slices of one file.

    Args:
        ds: its elements, including the sequences of functional groups.

    Returns:
        ``(dataset, frame, tile)`` of each slice: classic attributes, index of the frame in PixelData, and ``(side,
        index)`` in a mosaic, else ``None``. A file with one slice gives its own dataset.

    Raises:
        CaseError: ``ENHANCED_UNSUPPORTED`` if a file holds several slices and does not state their positions.
    """
    frames = integer_of(ds, "NumberOfFrames", 1)
    if PER_FRAME in ds:
        return [(one, index, None) for index, one in enumerate(_classic_frames(ds, frames))]
    if frames > 1 or "Enhanced" in ds.SOPClassUID.name:
        raise _unsupported("a multi-frame image must describe its frames in functional groups, but this one does not")
    if "MOSAIC" in text_of(ds, "ImageType").upper().split("\\"):
        return _tiles(ds)
    return [(ds, 0, None)]


def _unsupported(what: str) -> CaseError:
    return CaseError(Reason.ENHANCED_UNSUPPORTED, f"{what}; export the series as classic images, one slice per file")


def _classic_frames(ds: Dataset, frames: int) -> list[Dataset]:
    groups = ds[PER_FRAME].value
    if frames < 1 or len(groups) != frames:
        raise _unsupported(f"each of {frames} frames must be described once, got {len(groups)} descriptions")
    common = Dataset()
    common.update({element.tag: element for element in ds if element.keyword not in (SHARED, PER_FRAME)})
    for item in ds.get(SHARED) or ():
        _take_over(item, common)
    _translate_pulse_sequence(common)
    temporal = _other_dimensions(ds)
    result = []
    for item in groups:
        frame = Dataset()
        frame.update(common)
        _take_over(item, frame)
        for classic, enhanced in CLASSIC_NAMES:
            if enhanced in frame and not frame[enhanced].is_empty:
                value = frame[enhanced].value
                _set(frame, classic, value[0] if classic == "InversionTime" and not np.isscalar(value) else value)
        index = frame.get("DimensionIndexValues") or ()
        index = [index] if isinstance(index, int) else list(index)
        _set(frame, "DimensionIndexValues", [index[i] for i in temporal if i < len(index)])
        result.append(frame)
    return result


def _set(ds: Dataset, keyword: str, value: object) -> None:
    """Set an attribute of one dataset, without changing other datasets that share its elements."""
    tag = cast(int, tag_for_keyword(keyword))
    ds.add_new(tag, dictionary_VR(tag), value)


def _take_over(group: Dataset, target: Dataset) -> None:
    """Copy attributes from the functional groups of one item of either sequence."""
    for macro in MACROS:
        items = list(group.get(macro) or ())
        if len(items) == 1:
            target.update(items[0])
    for keyword in KEPT_SEQUENCES:
        if keyword in group:
            target[keyword] = group[keyword]


def _translate_pulse_sequence(ds: Dataset) -> None:
    """Derive ScanningSequence, which classic images must have, from the attributes that multi-frame objects use."""
    if "ScanningSequence" in ds or "EchoPulseSequence" not in ds:
        return
    names = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(text_of(ds, "EchoPulseSequence"), [])
    names += ["IR"] * (text_of(ds, "InversionRecovery") == "YES")
    names += ["EP"] * (text_of(ds, "EchoPlanarPulseSequence") == "YES")
    if names:
        ds.ScanningSequence = names


def _other_dimensions(ds: Dataset) -> list[int]:
    """Indices of the dimensions of a multi-frame object that are not spatial."""
    items: Sequence[Dataset] = ds.get("DimensionIndexSequence") or ()
    return [i for i, item in enumerate(items) if item.get("DimensionIndexPointer") not in SPATIAL_DIMENSIONS]


def _tiles(ds: Dataset) -> list[Slice]:
    """The slices of a mosaic.

    ImagePositionPatient is that of an image as large as the mosaic, centred on the first slice. The other slices follow
    along the normal that the CSA header states.
    """
    count = int(vendor_text(ds, SIEMENS_MOSAIC) or 0)
    normal, in_header = _csa_facts(ds)
    if count < 1 or normal is None or in_header not in (None, count):
        raise _unsupported("a mosaic must state number and direction of its slices, but its vendor's header is missing")
    side = math.isqrt(count - 1) + 1
    rows, columns = integer_of(ds, "Rows"), integer_of(ds, "Columns")
    position, orientation = vector_of(ds, "ImagePositionPatient", 3), vector_of(ds, "ImageOrientationPatient", 6)
    spacing, step = vector_of(ds, "PixelSpacing", 2), finite_of(ds, "SpacingBetweenSlices")
    if rows % side or columns % side or not (position and orientation and spacing and step):
        raise _unsupported(f"a mosaic of {side} x {side} slices must state its geometry, but this one does not")
    row, column = np.reshape(np.asarray(orientation), (2, 3))
    if abs(abs(np.cross(row, column) @ normal) - 1) > 1e-3:
        raise _unsupported(
            "a mosaic's slices must be stacked along their normal, but its headers contradict each other"
        )
    height, width = rows // side, columns // side
    corner = np.asarray(position)
    corner = corner + row * spacing[1] * (columns - width) / 2 + column * spacing[0] * (rows - height) / 2
    result: list[Slice] = []
    for index in range(count):
        one = Dataset()
        one.update(ds)
        _set(one, "Rows", height)
        _set(one, "Columns", width)
        one.add_new("ImagePositionPatient", "FD", list(corner + normal * step * index))  # in full precision
        result.append((one, 0, (side, index)))
    return result


def _csa_facts(ds: Dataset) -> tuple[np.ndarray | None, int | None]:
    """Unit vector from one slice of a mosaic to the next, and the number of slices, from its CSA header."""
    try:
        header = csareader.read(ds[SIEMENS_CSA].value)
        normal = np.asarray(csareader.get_slice_normal(header), dtype=np.float64)
        count = csareader.get_n_mosaic(header)
    except Exception:  # the parser raises anything on damaged headers
        return None, None
    if normal.shape != (3,) or not np.isfinite(normal).all() or not np.linalg.norm(normal) > 0:
        return None, None
    return normal / np.linalg.norm(normal), None if count is None else int(count)
