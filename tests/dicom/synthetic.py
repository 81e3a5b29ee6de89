# SPDX-License-Identifier: Apache-2.0
"""Synthetic DICOM series with known truth: an array, an affine, any encoding, any fault.

    files = write_series(folder, array, affine)                       # 12 slices, explicit little endian
    write_series(folder, array, affine, transfer_syntax=RLELossless)  # any encoding
    write_series(folder, array, affine, edit=drop(5))                 # any fault: ``edit(k, dataset)``

``edit`` is called with the slice's index along the third axis and its dataset before pixels are encoded; what it
returns is written: the dataset, ``None`` (no such slice), or a list of datasets.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from tests.conftest import make_affine, world_ramp

__all__ = [
    "ENCODINGS",
    "LOSSLESS",
    "as_mosaic",
    "dataset_bytes",
    "drop",
    "ramp_series",
    "slice_dataset",
    "write_enhanced",
    "write_series",
]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
DEFLATED = UID("1.2.840.10008.1.2.1.99")
LOSSLESS = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DEFLATED,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg-2000": JPEG2000Lossless,
}
ENCODINGS = {**LOSSLESS, "jpeg-2000-lossy": JPEG2000}
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DEFLATED)

Edit = Callable[[int, Dataset], "Dataset | list[Dataset] | None"]


def numbers(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as the standard wants them."""
    return [format_number_as_ds(float(v)) for v in values]


def ramp_series(
    shape=(36, 32, 12), spacing_mm=(2.0, 1.5, 6.0), rotate=(7, -4, 11), offset=2000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Integer array ``(I, J, K)`` whose every voxel is a (rounded) linear function of its position, and its affine."""
    affine = make_affine(spacing_mm, rotate=rotate)
    return np.rint(world_ramp(shape, affine, offset=offset)).astype(np.int32), affine


def slice_dataset(
    array: np.ndarray, affine_ras: np.ndarray, k: int, *, seed: str = "series", modality: str = "MR", **facts: object
) -> Dataset:
    """Header of slice ``k``; ``facts`` overrides or adds attributes by keyword, ``None`` removes one.

    UIDs are made from ``seed``, so that the same call gives the same file.
    """
    lps = RAS_TO_LPS @ affine_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"] if modality == "MR" else ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[seed, "instance", str(k)])
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[seed, "study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[seed, "series"])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[seed, "frame"])
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200102"
    ds.StudyTime = ds.SeriesTime = "101112"
    ds.AcquisitionTime = ds.ContentTime = f"1012{k % 60:02d}"
    ds.AccessionNumber = ""
    ds.Modality = modality
    ds.Manufacturer = "SYNTHETIC"
    ds.ManufacturerModelName = "Phantom"
    ds.ReferringPhysicianName = ""
    ds.SeriesDescription = "T2 TSE"
    ds.BodyPartExamined = "BRAIN"
    ds.PatientName = "Phantom^One"
    ds.PatientID = "PHANTOM-1"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.StudyID = "1"
    ds.SeriesNumber = 5
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = k + 1
    ds.SliceThickness = format_number_as_ds(float(spacing[2]) * 5 / 6)
    ds.PatientPosition = "HFS"
    ds.PositionReferenceIndicator = ""
    if modality == "MR":
        ds.ScanningSequence = "SE"
        ds.SequenceVariant = "SK"
        ds.ScanOptions = ""
        ds.MRAcquisitionType = "2D"
        ds.RepetitionTime = "4000"
        ds.EchoTime = "90"
        ds.EchoNumbers = 1
        ds.EchoTrainLength = 15
        ds.FlipAngle = "150"
        ds.MagneticFieldStrength = "1.5"
        ds.SpacingBetweenSlices = format_number_as_ds(float(spacing[2]))
    else:
        ds.KVP = "120"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.ImagePositionPatient = numbers(lps[:3, :3] @ [0, 0, k] + lps[:3, 3])
    ds.ImageOrientationPatient = numbers([*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])])
    ds.PixelSpacing = numbers([spacing[1], spacing[0]])
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = array.shape[1], array.shape[0]
    for name, value in facts.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def set_pixels(
    ds: Dataset, plane: np.ndarray, transfer_syntax: str, *, bits_allocated: int, bits_stored: int, signed: bool
) -> None:
    """Put stored values ``(Rows, Columns)`` into a dataset, encoded."""
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits_allocated, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(signed)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{bits_allocated // 8}")
    low, high = (-(2 ** (bits_stored - 1)), 2 ** (bits_stored - 1) - 1) if signed else (0, 2**bits_stored - 1)
    assert plane.min() >= low, "the array does not fit its encoding"
    assert plane.max() <= high, "the array does not fit its encoding"
    raw = np.ascontiguousarray(plane.astype(dtype)).tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OW" if bits_allocated > 8 or transfer_syntax == ImplicitVRLittleEndian else "OB"
    if transfer_syntax in NATIVE:
        return
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if transfer_syntax == JPEGLosslessSV1:
        ds.PixelData = _jpeg_lossless(ds)
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    elif transfer_syntax == JPEG2000:
        ds.compress(JPEG2000, j2k_cr=[4], generate_instance_uid=False)
        ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "4"
    else:
        plugin = "pydicom" if transfer_syntax == RLELossless else ""  # GDCM's encoder may end the process
        ds.compress(transfer_syntax, encoding_plugin=plugin, generate_instance_uid=False)


def _jpeg_lossless(ds: Dataset) -> bytes:
    """Encapsulated JPEG lossless (process 14, selection value 1), encoded by GDCM: pydicom has no encoder for it."""
    import gdcm

    writer = gdcm.ImageWriter()  # owns the image
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((ds.Columns, ds.Rows, 1))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
    image.SetPixelFormat(gdcm.PixelFormat(1, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(ds.PixelData[: ds.Rows * ds.Columns * ds.BitsAllocated // 8])
    image.SetDataElement(element)
    converter = gdcm.ImageChangeTransferSyntax()
    converter.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    converter.SetInput(image)
    assert converter.Change()
    output = converter.GetOutput()
    fragments = output.GetDataElement().GetSequenceOfFragments()
    buffer = fragments.GetFragment(0).GetByteValue().GetBuffer()
    return encapsulate([buffer.encode("utf-8", "surrogateescape")])


def dataset_bytes(ds: Dataset) -> bytes:
    """The file that a dataset becomes."""
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write_series(
    folder: Path,
    array: np.ndarray,
    affine_ras: np.ndarray,
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    bits_allocated: int = 16,
    bits_stored: int | None = None,
    signed: bool | None = None,
    rescale: Sequence[tuple[float, float]] | None = None,
    edit: Edit | None = None,
    edit_file: Callable[[int, bytes], bytes] | None = None,
    name: str | Callable[[int], str] = "IM{:04d}.dcm",
    seed: str = "series",
    modality: str = "MR",
    **facts: object,
) -> list[Path]:
    """Write one file per slice.

    Args:
        folder: made if needed.
        array: ``(I, J, K)`` integers, the *stored* values (before rescale); slices lie along the third axis.
        affine_ras: ``(4, 4)``.
        transfer_syntax: how pixels are encoded.
        bits_allocated: 8, 16 or 32.
        bits_stored: default ``bits_allocated``.
        signed: default: whether a value is negative.
        rescale: ``(slope, intercept)`` of each slice.
        edit: fault: ``edit(k, dataset)``, see above; called after the pixels are there (``dataset.PixelData``).
        edit_file: fault: ``edit_file(k, bytes)`` gives the bytes that are written.
        name: file name from the running number of the file.
        seed: other seeds give other UIDs.
        modality: ``MR`` or ``CT``.
        **facts: attributes by keyword, for all slices; ``None`` removes one.

    Returns:
        The paths, in order of ``k``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    signed = bool(array.min() < 0) if signed is None else signed
    paths: list[Path] = []
    for k in range(array.shape[2]):
        ds = slice_dataset(array, affine_ras, k, seed=seed, modality=modality, **facts)
        if rescale is not None:
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = (*numbers(rescale[k]), "US")
        set_pixels(
            ds,
            array[:, :, k].T,
            transfer_syntax,
            bits_allocated=bits_allocated,
            bits_stored=bits_stored or bits_allocated,
            signed=signed,
        )
        edited = ds if edit is None else edit(k, ds)
        for one in edited if isinstance(edited, list) else [edited] if edited is not None else []:
            one.file_meta.MediaStorageSOPClassUID = one.get("SOPClassUID", MRImageStorage)
            one.file_meta.MediaStorageSOPInstanceUID = one.get("SOPInstanceUID", generate_uid(entropy_srcs=[seed]))
            data = dataset_bytes(one)
            path = folder / (name(len(paths)) if callable(name) else name.format(len(paths)))
            path.write_bytes(data if edit_file is None else edit_file(k, data))
            paths.append(path)
    return paths


def drop(*slices: int) -> Edit:
    """Fault: these slices are missing."""
    return lambda k, ds: None if k in slices else ds


# macro of a multi-frame object that an attribute of a frame belongs to
MACRO_OF = {
    "EffectiveEchoTime": "MREchoSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "VolumetricProperties": "MRImageFrameTypeSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "DimensionIndexValues": "FrameContentSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _item(**facts: object) -> Dataset:
    ds = Dataset()
    for name, value in facts.items():
        setattr(ds, name, value)
    return ds


def _frame_groups(ds: Dataset, facts: dict[str, object]) -> Dataset:
    """Functional groups of one frame, from the dataset of the classic slice and what the frame says beyond it."""
    macros: dict[str, Dataset] = {
        "PlanePositionSequence": _item(ImagePositionPatient=ds.ImagePositionPatient),
        "PlaneOrientationSequence": _item(ImageOrientationPatient=ds.ImageOrientationPatient),
        "PixelMeasuresSequence": _item(PixelSpacing=ds.PixelSpacing, SliceThickness=ds.SliceThickness),
        "MREchoSequence": _item(EffectiveEchoTime=float(ds.EchoTime)),
        "MRTimingAndRelatedParametersSequence": _item(RepetitionTime=ds.RepetitionTime, FlipAngle=ds.FlipAngle),
        "FrameContentSequence": _item(FrameAcquisitionNumber=1),
        "PixelValueTransformationSequence": _item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US"),
        "MRImageFrameTypeSequence": _item(
            FrameType=["ORIGINAL", "PRIMARY", "T2", "NONE"],
            ComplexImageComponent="MAGNITUDE",
            VolumetricProperties="VOLUME",
        ),
        "FrameVOILUTSequence": _item(WindowCenter="2000", WindowWidth="800"),
    }
    for name, value in facts.items():
        if name == "gradient":
            diffusion = macros.setdefault("MRDiffusionSequence", Dataset())
            diffusion.DiffusionGradientDirectionSequence = [_item(DiffusionGradientOrientation=value)]
        else:
            setattr(macros.setdefault(MACRO_OF[name], Dataset()), name, value)
    return _item(**{name: [item] for name, item in macros.items()})


def write_enhanced(
    path: Path,
    volumes: Sequence[tuple[np.ndarray, np.ndarray, dict[str, object]]],
    *,
    order: Sequence[int] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    edit: Callable[[Dataset], None] | None = None,
    seed: str = "enhanced",
    **facts: object,
) -> Path:
    """Write one Enhanced MR object.

    Args:
        path: file to write; folders are made.
        volumes: stored values ``(I, J, K)``, affine, and what each frame of the volume says of itself: a value, or a
            function of the slice's index.
        order: of the frames; default volume by volume, slice by slice.
        transfer_syntax: how frames are encoded.
        edit: fault, called with the finished dataset.
        seed: other seeds give other UIDs.
        **facts: attributes of the file by keyword.
    """
    frames: list[tuple[np.ndarray, Dataset]] = []
    for array, affine, own in volumes:
        for k in range(array.shape[2]):
            classic = slice_dataset(array, affine, k, seed=seed)
            said = {name: value(k) if callable(value) else value for name, value in own.items()}
            frames.append((array[:, :, k].T, _frame_groups(classic, said)))
    frames = [frames[i] for i in order] if order is not None else frames
    ds = slice_dataset(volumes[0][0], volumes[0][1], 0, seed=seed)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime", "EchoNumbers",
        "RepetitionTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "ScanOptions", "SpacingBetweenSlices",
        "EchoTrainLength",
    ):  # fmt: skip
        delattr(ds, keyword)
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.EchoPulseSequence, ds.InversionRecovery, ds.EchoPlanarPulseSequence = "SPIN", "NO", "NO"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "MIXED", "NONE"]
    ds.PerFrameFunctionalGroupsSequence = [groups for _, groups in frames]
    ds.SharedFunctionalGroupsSequence = [_item(FrameAnatomySequence=[_item(FrameLaterality="U")])]
    for name, value in facts.items():
        setattr(ds, name, value)
    stacked = np.concatenate([plane for plane, _ in frames])
    set_pixels(
        ds, stacked, ExplicitVRLittleEndian, bits_allocated=16, bits_stored=16, signed=bool(stacked.min() < 0)
    )  # fmt: skip
    ds.NumberOfFrames = len(frames)
    if transfer_syntax != ExplicitVRLittleEndian:
        plugin = "pydicom" if transfer_syntax == RLELossless else ""
        ds.compress(transfer_syntax, encoding_plugin=plugin, generate_instance_uid=False)
    if edit is not None:
        edit(ds)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dataset_bytes(ds))
    return path


def as_mosaic(array: np.ndarray, affine_ras: np.ndarray, *, with_header: bool = True, **facts: object) -> Dataset:
    """A Siemens mosaic: all slices of a volume tiled into one image, with the part of the CSA header that matters."""
    columns, rows, count = array.shape
    side = math.isqrt(count - 1) + 1
    tiled = np.zeros((side * rows, side * columns), dtype=array.dtype)
    for k in range(count):
        tiled[k // side * rows : (k // side + 1) * rows, k % side * columns : (k % side + 1) * columns] = array[
            :, :, k
        ].T
    ds = slice_dataset(array, affine_ras, 0, **facts)
    lps = RAS_TO_LPS @ affine_ras
    corner = lps[:3, 3] - lps[:3, 0] * (side - 1) * columns / 2 - lps[:3, 1] * (side - 1) * rows / 2
    ds.ImagePositionPatient = numbers(corner)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    ds.Manufacturer = "SIEMENS"
    if with_header:
        normal = lps[:3, 2] / np.linalg.norm(lps[:3, 2])
        ds.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        ds.add_new(0x0019100A, "US", count)
        ds.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
        tags = {
            "NumberOfImagesInMosaic": ("US", [str(count)]),
            "SliceNormalVector": ("FD", [f"{n:.12f}" for n in normal]),
        }
        ds.add_new(0x00291010, "OB", _csa(tags))
    ds.Rows, ds.Columns = tiled.shape
    set_pixels(ds, tiled, ExplicitVRLittleEndian, bits_allocated=16, bits_stored=16, signed=False)
    return ds


def _csa(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """A CSA2 header: https://nipy.org/nibabel/dicom/siemens_csa.html"""
    out = b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, (vr, items) in tags.items():
        out += struct.pack("<64si4siii", name.encode(), len(items), vr.encode(), 4, len(items), 77)
        for item in items:
            text = item.encode() + b"\0"
            out += struct.pack("<iiii", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return out + b"\0" * (len(out) % 2)
