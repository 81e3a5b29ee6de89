# SPDX-License-Identifier: Apache-2.0
"""The error map of a derived series as a DICOM parametric map: one object of 32-bit floats beside the series.

Patient, study, position and grid are taken from the derived slices, so the two cannot disagree. The frames refer to
these slices, and the object also refers to the acquired ones. ``docs/dicom_conformance.md`` states every attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes

from .attributes import PATIENT_AND_STUDY
from .parsing import quiet
from .uids import derived_uid
from .writing import save_instance

__all__ = ["write_error_map"]

NUMBERS_APART = 10**9  # added to the number of the derived series, which is smaller, so that no two numbers are equal


def write_error_map(path: Path, array: np.ndarray, derived: Sequence[Path], coverage: float | None) -> None:
    """Write one file.

    Args:
        path: must not exist yet; the caller renames its folder when all files are written.
        array: ``(columns, rows, slices)`` in scanner units, on the grid of the derived series.
        derived: files of the derived series, in order of position.
        coverage: share of the voxels whose true value differs from the result by at most the map; ``None`` for a map
            that was not calibrated and holds the expected absolute error.

    Raises:
        ValueError: if the array is not finite, or not on the grid of the series.
    """
    slices = [dcmread(file, stop_before_pixels=True) for file in derived]
    first = slices[0]
    shape = (first.Columns, first.Rows, len(slices))
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"array must be finite and have the shape {shape} of its series, got shape {array.shape}")
    frames = np.ascontiguousarray(array.T, dtype=np.float32)
    low, high = float(frames.min()), float(frames.max())
    meaning = f"half-width of a {100 * coverage:.3g} % interval" if coverage else "expected absolute error"
    uids = [str(ds.SOPInstanceUID) for ds in slices]
    with quiet():
        image = ParametricMap(
            source_images=[_nobody(ds) for ds in slices],
            pixel_array=frames,
            series_instance_uid=derived_uid(*uids, "error map series"),
            series_number=NUMBERS_APART + first.SeriesNumber,
            sop_instance_uid=derived_uid(*uids, "error map"),
            instance_number=1,
            manufacturer=first.ContributingEquipmentSequence[0].Manufacturer,
            manufacturer_model_name=first.ContributingEquipmentSequence[0].ManufacturerModelName,
            software_versions=first.ContributingEquipmentSequence[0].SoftwareVersions,
            device_serial_number="none",
            contains_recognizable_visual_features=True,
            real_world_value_mappings=[
                RealWorldValueMapping("ERROR", meaning, codes.UCUM.NoUnits, (low, high), slope=1.0, intercept=0.0)
            ],
            voi_lut_transformations=[VOILUTTransformation(window_center=high / 2, window_width=max(high, 1.0))],
            content_label="ERROR_MAP",
            content_description=meaning,
            derivation=codes.DCM.SpatialResampling,
        )
    _take_over(image, first)
    image.SeriesDescription = f"{first.SeriesDescription[:54].rstrip()} error map"
    organization = derived_uid(*uids, "error map dimensions")  # highdicom makes a random one
    for item in (*image.DimensionOrganizationSequence, *image.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    save_instance(image, path)


def _nobody(ds: Dataset) -> Dataset:
    """A slice without its patient: highdicom checks names and codes of persons, and quotes them in its log."""
    plain = Dataset()
    plain.update(ds)
    plain.pop("SpecificCharacterSet", None)
    for keyword in (
        "PatientName",
        "PatientSex",
        "PatientBirthDate",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyTime",
    ):
        setattr(plain, keyword, None)
    return plain


def _take_over(image: Dataset, first: Dataset) -> None:
    """Copy patient, dates, equipment and references to acquired images from a derived slice."""
    for keyword in (
        *PATIENT_AND_STUDY, "Laterality", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime",
        "InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence", "DerivationDescription",
    ):  # fmt: skip
        if keyword in first:
            image[keyword] = first[keyword]
        elif keyword in image:
            del image[keyword]
    image.SourceImageSequence = DicomSequence([*image.SourceImageSequence, *first.SourceImageSequence])
    image.ReferencedSeriesSequence = DicomSequence([*image.ReferencedSeriesSequence, *first.ReferencedSeriesSequence])
