# SPDX-License-Identifier: Apache-2.0
"""Decide from its header whether a DICOM file holds an image that can be super-resolved."""

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
from .uids import is_derived_uid

__all__ = ["file_refusal", "image_refusal", "image_warnings", "is_ours"]

IMAGE_CLASS = {"MR": MRImageStorage, "CT": CTImageStorage}
ENHANCED_CLASSES = {
    "MR": (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage),
    "CT": (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage),
}
SCOUT = {"LOCALIZER", "SCOUT", "SURVEY", "TOPOGRAM"}
PROJECTION = {"PROJECTION IMAGE", "MIP", "MINIP", "MNIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "VOLUME_RENDER"}
REFORMAT = {"MPR", "MULTI_PLANAR", "CURVED_MPR", "CPR", "RESAMPLED", "REFORMATTED"}
# values of VolumetricProperties of frames whose geometry is no longer that of the acquisition
NOT_A_VOLUME = {"SAMPLED", "DISTORTED"}
# values of ImageType that name a map, from the standard and from vendors
MAPS = {
    *("ADC", "EADC", "EXP ADC", "FA", "COLFA", "DIFFUSION MAP", "TENSOR"),
    *("T1 MAP", "T2 MAP", "T2_STAR MAP", "R1 MAP", "R2 MAP", "R2_STAR MAP", "T1MAP", "T2MAP", "T2STAR MAP"),
    *("B0 MAP", "B1 MAP", "FIELD_MAP", "FIELD MAP", "PROTON_DENSITY MAP", "FAT FRACTION", "WATER FRACTION"),
    *("PHASE", "PHASE MAP", "REAL", "IMAGINARY", "VELOCITY", "VELOCITY MAP"),
    *("CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "MTT", "TTP", "TMAX"),
}
COMPONENT_LETTERS = {"P", "R", "I"}  # as third or fourth value: phase, real, imaginary
NO_UNITS = {"", "1", "{}", "NO UNITS"}
# codes of DerivationCodeSequence that :mod:`.writing` writes: spatial resampling, artificial intelligence
RESAMPLED = "113085"
OUR_DERIVATIONS = {RESAMPLED, "123110"}
DERIVED = ("DERIVED", "SECONDARY")
OUR_IMAGE_TYPE = ("DERIVED", "SECONDARY", "OTHER", "SR")


def file_refusal(header: Header, modality: str) -> CaseError | None:
    """Why a file is left out whatever its series: it is not an image, or not of this modality; ``None`` if it is."""
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
    """Why a volume is not processed although it is an image of the right modality; ``None`` if it is processed."""
    values = set(header.image_type)
    if values & SCOUT:
        return CaseError(Reason.LOCALIZER, "a localizer is not processed; nothing to do")
    if (
        (values | set(header.volumetric)) & (PROJECTION | NOT_A_VOLUME)
        or set(header.volumetric) & REFORMAT
        or set(header.derivation) & OUR_DERIVATIONS
        or (values & REFORMAT and values & {"DERIVED"})
        or (header.image_type[:2] == DERIVED and header.has_sources)
        or header.image_type[:4] == OUR_IMAGE_TYPE
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


def image_warnings(header: Header) -> tuple[CaseError, ...]:
    """Warnings about a volume that is processed."""
    if header.image_type[:2] != DERIVED:
        return ()
    message = "an input should be an acquired image; this one is called derived, but does not say how or from what"
    return (CaseError(Reason.ALREADY_DERIVED, message),)


def is_ours(header: Header) -> bool:
    """Whether an image was written by :mod:`.writing`: its image type, derivation and identifiers all say so."""
    return (
        header.image_type[:4] == OUR_IMAGE_TYPE
        and RESAMPLED in header.derivation
        and is_derived_uid(header.series)
        and is_derived_uid(header.sop_instance)
    )
