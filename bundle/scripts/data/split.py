# SPDX-License-Identifier: Apache-2.0
"""Split scans into training and validation by patient: all scans of one person are on the same side."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path

import numpy as np

from .cases import find_cases, volume_stem

__all__ = ["make_datalist"]

logger = logging.getLogger(__name__)

Datalist = dict[str, dict[str, list[dict[str, object]]]]


def make_datalist(
    ct_dir: str | None,
    mr_dir: str | None,
    datalist_file: str | None = None,
    patient_regex: str = "",
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Datalist:
    """Training and validation scans of both modalities.

    Args:
        ct_dir: folder of CT scans (NIfTI files, DICOM series), or ``None`` if a stage needs none.
        mr_dir: folder of thick-slice MR scans, or ``None``.
        datalist_file: JSON ``{"ct": {"training": [{"image": path, "patient": id}], "validation": [...]}, "mr": ...}``
            with paths relative to ``ct_dir`` and ``mr_dir``; no other split is then made. An item may have a
            ``weight``: patches are drawn from scans in proportion to it.
        patient_regex: finds the patient in a case's name (first group, or the whole match). If it is empty, every case
            is a separate patient (for DICOM, the patient is read from the headers and hashed).
        validation_fraction: share of each modality's patients that is held out, rounded up. At least one patient of
            each modality is used for training, whatever the share. 0 holds out none.
        seed: seed of the draw.

    Returns:
        ``{"ct": {"training": [...], "validation": [...]}, "mr": {...}}``; items have ``image``, ``case``, ``patient``.

    Raises:
        ValueError: if a folder holds no scan, or the regular expression does not match a name.
    """
    folders = {"ct": ct_dir, "mr": mr_dir}
    if datalist_file:
        return _from_file(Path(datalist_file), folders)
    scans = {
        modality: _scans(modality, folder, patient_regex) if folder else [] for modality, folder in folders.items()
    }
    if not patient_regex:
        _part_namesakes(scans)
    held_out = _held_out(scans, validation_fraction, np.random.default_rng(seed))
    datalist: Datalist = {}
    for modality, items in scans.items():
        datalist[modality] = {
            "training": [item for item in items if item["patient"] not in held_out],
            "validation": [item for item in items if item["patient"] in held_out],
        }
        counts = [len(datalist[modality][part]) for part in ("training", "validation")]
        if items:
            logger.info("%s: %d scans train, %d validate", modality, *counts)
        if items and not counts[1]:
            logger.warning("%s: too few patients to hold one out, validation is switched off", modality)
    return datalist


def _part_namesakes(scans: dict[str, list[dict[str, object]]]) -> None:
    """If the only CT and the only MR are files of the same name, count them as two people, because a name is no proof.

    With more files, the same name counts as the same person, because enough patients remain.
    """
    patients = [{str(item["patient"]) for item in items} for items in scans.values() if items]
    if len(patients) == 2 and len(set().union(*patients)) == 1:
        for modality, items in scans.items():
            for item in items:
                if isinstance(item["image"], str):  # the path of a file; DICOM series state their patients
                    item["patient"] = f"{modality}:{item['case']}"
                    logger.warning(
                        "%s %s: CT and MR have the same name and are taken for two people; if they are of one person, "
                        "add a CT of another", modality, item["case"],
                    )  # fmt: skip


def _held_out(
    scans: dict[str, list[dict[str, object]]], validation_fraction: float, rng: np.random.Generator
) -> set[str]:
    """Draw patients until each modality has its share; the last patient for training is never drawn."""
    patients = {modality: {str(item["patient"]) for item in items} for modality, items in scans.items()}
    everyone = sorted(set().union(*patients.values()))
    held_out: set[str] = set()
    for index in rng.permutation(len(everyone)):
        patient = everyone[index]
        for own in patients.values():
            wanted = math.ceil(validation_fraction * len(own))
            would_hold_out = held_out | {patient}
            if (
                patient in own
                and len(own & held_out) < wanted
                and all(p - would_hold_out for p in patients.values() if p)
            ):
                held_out.add(patient)
    return held_out


def _scans(modality: str, folder: str, patient_regex: str) -> list[dict[str, object]]:
    cases = find_cases(folder, modality.upper())
    for name, error in [*cases.refused, *cases.skipped]:
        logger.warning("%s %s is left out: %s", modality, name, error)
    if not cases.items:
        raise ValueError(
            f"{modality}_dir must hold at least one scan (NIfTI file or DICOM series), got none in {folder}"
        )
    return [dict(item, patient=_patient(item, patient_regex)) for item in cases.items]


def _patient(item: dict[str, object], patient_regex: str) -> str:
    if "patient" in item:
        return str(item["patient"])
    name = str(item["case"])
    if not patient_regex:
        return name.rpartition("/")[2]
    match = re.search(patient_regex, name)
    if match is None:
        raise ValueError(f"patient_regex must match every case name, got {patient_regex!r} for {name!r}; correct it")
    return match.group(1) if match.groups() else match.group(0)


def _from_file(path: Path, folders: dict[str, str | None]) -> Datalist:
    given = json.loads(path.read_text())
    datalist: Datalist = {}
    for modality, folder in folders.items():
        parts = given.get(modality, {})
        unknown = set(parts) - {"training", "validation"}
        if unknown:
            raise ValueError(f"{path.name} must list 'training' and 'validation', got {sorted(unknown)}; rename them")
        datalist[modality] = {"training": [], "validation": []}
        for part, items in parts.items():
            for item in items:
                image = Path(folder or ".") / item["image"]
                if not image.exists():
                    raise ValueError(f"{path.name} must name existing scans, got {image}; correct it")
                case = volume_stem(image)
                patient, weight = str(item.get("patient", case)), float(item.get("weight", 1.0))
                datalist[modality][part].append(
                    {"image": str(image), "case": case, "patient": patient, "weight": weight}
                )
    shared = _patients(datalist, "training") & _patients(datalist, "validation")
    if shared:
        raise ValueError(
            f"{path.name} must hold each patient in one part only, got {sorted(shared)} in both; move them"
        )
    return datalist


def _patients(datalist: Datalist, part: str) -> set[str]:
    return {str(item["patient"]) for parts in datalist.values() for item in parts[part]}
