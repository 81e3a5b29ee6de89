# SPDX-License-Identifier: Apache-2.0
"""The part of the body that a scan shows, according to its header: one of a few words, never the header's own text."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from .values import codes_of, text_of

__all__ = ["BODY_PARTS", "BODY_PART_KEYWORDS", "body_part"]

# words of BodyPartExamined (PS3.16 annex L), protocols and descriptions; the first part of the body that matches wins
BODY_PARTS: dict[str, tuple[str, ...]] = {
    "prostate": ("PROSTATE", "PROSTATA"),
    "breast": ("BREAST", "MAMMA"),
    "heart": ("HEART", "CARDIAC", "CARDIO", "CORONARY", "CINE"),
    "liver": ("LIVER", "HEPATIC", "LEBER"),
    "spine": ("CSPINE", "TSPINE", "LSPINE", "SPINE", "CERVICAL", "LUMBAR", "THORACIC SPINE", "SSPINE", "SACRUM", "HWS",
              "BWS", "LWS", "RACHIS"),
    "knee": ("KNEE", "KNIE", "GENOU"),
    "hip": ("HIP", "HIPS", "HUEFTE"),
    "shoulder": ("SHOULDER", "SCHULTER"),
    "ankle": ("ANKLE", "FOOT", "TOE", "CALCANEUS"),
    "wrist": ("WRIST", "HAND", "FINGER", "ELBOW"),
    "thigh": ("THIGH", "FEMUR", "LEG", "CALF", "TIBIA"),
    "pelvis": ("PELVIS", "PELVIC", "UTERUS", "RECTUM", "BLADDER", "BECKEN"),
    "abdomen": ("ABDOMEN", "KIDNEY", "PANCREAS", "RENAL", "MRCP"),
    "chest": ("CHEST", "THORAX", "LUNG"),
    "neck": ("NECK", "LARYNX", "THYROID", "CAROTID"),
    "head": ("HEAD", "BRAIN", "SKULL", "CEREBRAL", "CRANE", "SCHAEDEL", "KOPF", "PITUITARY", "ORBIT", "ORBITS"),
}  # fmt: skip
CODES = {  # SNOMED CT codes of AnatomicRegionSequence
    "69536005": "head", "12738006": "head", "45048000": "neck", "51185008": "chest", "80891009": "heart",
    "113345001": "abdomen", "10200004": "liver", "12921003": "pelvis", "41216001": "prostate", "421060004": "spine",
    "122494005": "spine", "122495006": "spine", "122496007": "spine", "72696002": "knee", "29836001": "hip",
    "16982005": "shoulder", "76752008": "breast",
}  # fmt: skip
BODY_PART_KEYWORDS = (
    "AnatomicRegionSequence", "BodyPartExamined", "ProtocolName", "SeriesDescription", "StudyDescription",
)  # fmt: skip


def body_part(ds: Dataset) -> str:
    """One of :data:`BODY_PARTS`, or an empty string if the header names none.

    The attributes are tried in the order of :data:`BODY_PART_KEYWORDS`, and the first one that names a part decides.
    """
    for keyword in BODY_PART_KEYWORDS:
        if keyword == "AnatomicRegionSequence":
            found = [CODES[code] for code in codes_of(ds, keyword) if code in CODES]
        else:
            words = " ".join(re.findall("[A-Z]+", text_of(ds, keyword).upper()))
            found = [part for part, names in BODY_PARTS.items() if any(f" {n} " in f" {words} " for n in names)]
        if found:
            return found[0]
    return ""
