# SPDX-License-Identifier: Apache-2.0
"""The attributes that a derived series takes over from its source. Nothing that is not listed here is taken over."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

__all__ = ["ACQUISITION", "LOSSY", "PATIENT_AND_STUDY", "REQUIRED_EMPTY", "copy_constant"]

# patient and study: the derived series lies in the study of its source, so these must be equal
PATIENT_AND_STUDY = (
    "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "StudyInstanceUID", "StudyID", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition",
    "BodyPartExamined", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
)  # fmt: skip
# type 2 attributes of patient and study: kept even if they are empty in the source
KEPT_EMPTY = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialTimePointID")

# how the thick slices were acquired
ACQUISITION = (
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "InstitutionName",
    "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "ProtocolName",
    "RepetitionTime", "EchoTime", "EchoTrainLength", "EchoNumbers", "InversionTime", "FlipAngle",
    "MagneticFieldStrength", "ImagedNucleus", "ImagingFrequency", "NumberOfAverages", "PixelBandwidth",
    "ContrastBolusAgent", "ContrastBolusRoute", "ContrastBolusVolume", "AcquisitionNumber",
)  # fmt: skip

# a series that was ever compressed with loss must say so for ever
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

# type 2 attributes: present even if the source has no value
REQUIRED_EMPTY = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "StudyID", "PositionReferenceIndicator", "Manufacturer", "ScanOptions",
    "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength", "PatientPosition",
)  # fmt: skip


def copy_constant(sources: Sequence[Dataset], target: Dataset, keywords: Sequence[str]) -> None:
    """Copy the attributes whose value is the same, and not empty, in every slice of the source.

    A value that differs between slices describes a slice that does not exist in the derived series. A value that
    violates its value representation is left out too, except in attributes that identify patient or study.
    """
    first = sources[0]
    for keyword in keywords:
        if keyword not in first:
            continue
        element = first[keyword]
        if (element.is_empty and keyword not in KEPT_EMPTY) or any(
            keyword not in ds or ds[keyword].value != element.value for ds in sources[1:]
        ):
            continue
        if keyword in REQUIRED_EMPTY or _is_valid(element):
            target.add(element)


def _is_valid(element: DataElement) -> bool:
    """Whether the values obey their value representation; archives hold ages such as ``0Y``."""
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            validate_value(element.VR, getattr(value, "original_string", value), RAISE)
    except ValueError:
        return False
    return True
