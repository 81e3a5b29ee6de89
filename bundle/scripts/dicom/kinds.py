# SPDX-License-Identifier: Apache-2.0
"""What a DICOM file holds: an image that can be super-resolved, or something else, by its own statements."""

from __future__ import annotations

from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from ..reasons import CaseError, Reason
from .headers import Header, uid_name

__all__ = ["file_refusal", "image_refusal", "is_multi_frame"]

IMAGE_CLASS = {"MR": MRImageStorage, "CT": CTImageStorage}
ENHANCED_CLASSES = {
    "MR": (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage),
    "CT": (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage),
}
SCOUT = {"LOCALIZER", "SCOUT", "SURVEY", "TOPOGRAM"}
PROJECTION = {"PROJECTION IMAGE", "MIP", "MINIP", "MNIP"}
# whole values of ImageType, vendors' and the standard's
MAPS = {
    *("ADC", "EADC", "EXP ADC", "FA", "COLFA", "DIFFUSION MAP", "TENSOR"),
    *("T1 MAP", "T2 MAP", "T2_STAR MAP", "R1 MAP", "R2 MAP", "R2_STAR MAP", "T1MAP", "T2MAP", "T2STAR MAP"),
    *("B0 MAP", "B1 MAP", "FIELD_MAP", "FIELD MAP", "PROTON_DENSITY MAP", "FAT FRACTION", "WATER FRACTION"),
    *("PHASE", "PHASE MAP", "REAL", "IMAGINARY", "VELOCITY", "VELOCITY MAP"),
    *("CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "MTT", "TTP", "TMAX"),
}
COMPONENT_LETTERS = {"P", "R", "I"}  # as third or fourth value: phase, real, imaginary
NO_UNITS = {"", "1", "{}", "NO UNITS"}
# context group 7203 and 7162: resampled in space, made by artificial intelligence
OUR_DERIVATIONS = {"113085", "123110"}


def is_multi_frame(header: Header, modality: str) -> bool:
    """Whether one file holds several slices: Enhanced objects, classic ones with frames, mosaics."""
    classes = ENHANCED_CLASSES[modality]
    return header.sop_class in classes or header.frames > 1 or header.tiles > 1 or "MOSAIC" in header.image_type


def file_refusal(header: Header, modality: str) -> CaseError | None:
    """Why a file is none of our business, whatever its series: no image, or of another kind."""
    known = (IMAGE_CLASS[modality], *ENHANCED_CLASSES[modality])
    if header.sop_class not in known:
        name = uid_name(header.sop_class)
        if header.pixels is None and header.rows == 0:
            return CaseError(Reason.NOT_AN_IMAGE, f"an input must be an image, got {name}")
        return CaseError(Reason.NOT_MR, f"an input must be an {modality} image, got {name}")
    if header.series and header.modality != modality:
        return CaseError(Reason.NOT_MR, f"an input must be an {modality} image, got another modality")
    if header.pixels is not None and (header.samples != 1 or not header.photometric.startswith("MONOCHROME")):
        return CaseError(Reason.NOT_MR, f"an input must be a grey-scale {modality} image, got a colour image")
    return None


def image_refusal(header: Header) -> CaseError | None:
    """Why a volume of this kind is not processed although it is an image of the right modality."""
    values = set(header.image_type)
    if values & SCOUT:
        return CaseError(Reason.LOCALIZER, "a localizer is not processed; nothing to do")
    if (
        values & PROJECTION
        or set(header.derivation) & OUR_DERIVATIONS
        or header.image_type[:2] == ("DERIVED", "SECONDARY")
    ):
        return CaseError(
            Reason.ALREADY_DERIVED, "an input must be an acquired image, got one derived from others; take the source"
        )
    maps = values & MAPS or set(header.image_type[2:]) & COMPONENT_LETTERS or {header.component} - {""}
    if maps:
        return CaseError(Reason.QUANTITATIVE, f"an input must be a magnitude image, got {min(maps)}; nothing to do")
    if not set(header.units) <= NO_UNITS:
        return CaseError(Reason.QUANTITATIVE, "an input must not be a map with physical units; nothing to do")
    return None
