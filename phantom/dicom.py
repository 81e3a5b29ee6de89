# SPDX-License-Identifier: Apache-2.0
"""Write a made-up scan as a DICOM series, as a scanner would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds
from scripts.geometry import swap_lps_ras

__all__ = ["write_series"]


def write_series(
    folder: Path, array: np.ndarray, affine_ras: np.ndarray, modality: str = "MR", seed: int = 0,
    slice_thickness_mm: float | None = None, description: str = "PHANTOM T1",
) -> list[Path]:  # fmt: skip
    """One file per slice along the third axis.

    Args:
        folder: is created, for the files ``0001.dcm`` and so on.
        array: ``(columns, rows, slices)`` scanner units; rounded to whole numbers. CT is written with intercept -1024.
        affine_ras: ``(4, 4)`` of the array.
        modality: ``MR`` or ``CT``.
        seed: seed of the patient; UIDs are made from it, so that the same patient has the same study.
        slice_thickness_mm: slice thickness; by default the slice spacing.
        description: SeriesDescription.

    Returns:
        The files in order of position.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.rint(array + (1024 if modality == "CT" else 0))
    if stored.min() < 0 or stored.max() > 4095:
        raise ValueError(f"voxels must fit 12 bits, got {stored.min():g} to {stored.max():g}; scale the array")
    files = []
    for k in range(array.shape[2]):
        ds = _header(affine_ras, k, modality, seed, description)
        spacing = float(np.linalg.norm(affine_ras[:3, 2]))
        ds.SliceThickness = _number(spacing if slice_thickness_mm is None else slice_thickness_mm)
        plane = np.ascontiguousarray(stored[:, :, k].T.astype("<u2"))
        ds.Rows, ds.Columns = plane.shape
        ds.PixelData = plane.tobytes()
        files.append(folder / f"{k + 1:04d}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def _number(value: float) -> str:
    """Decimal string of at most 16 characters."""
    return format_number_as_ds(float(value))


def _header(affine_ras: np.ndarray, k: int, modality: str, seed: int, description: str) -> Dataset:
    lps = swap_lps_ras(affine_ras)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    who = ["phantom", str(seed)]
    series = [*who, modality, description]
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "AXIAL"]
    ds.SOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[*series, str(k)])
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[*who, "study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[*series, "series"])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[*who, "frame"])
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.Modality = modality
    ds.Manufacturer = "Phantom"
    ds.ReferringPhysicianName = ""
    ds.SeriesDescription = description
    ds.BodyPartExamined = "HEAD"
    ds.PatientName = "Phantom^Made-up"
    ds.PatientID = f"PHANTOM-{seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.StudyID = "1"
    ds.SeriesNumber = 1 if modality == "MR" else 2
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = k + 1
    ds.PatientPosition = "HFS"
    ds.PositionReferenceIndicator = ""
    if modality == "MR":
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "SE", "SK", ""
        ds.MRAcquisitionType, ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "2D", "600", "12", 1
        ds.EchoNumbers = 1
        ds.MagneticFieldStrength = "1.5"
        ds.SpacingBetweenSlices = _number(spacing[2])
    else:
        ds.KVP = "120"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.ImagePositionPatient = [_number(v) for v in lps[:3, 2] * k + lps[:3, 3]]
    ds.ImageOrientationPatient = [_number(v) for v in [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]]
    ds.PixelSpacing = [_number(spacing[1]), _number(spacing[0])]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds
