# SPDX-License-Identifier: Apache-2.0
"""Find the rule that takes a series, by a few facts of its header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .settings import Rule, SettingsError

__all__ = ["Facts", "check_ids", "first_match", "inference_ids", "read_facts"]

FROM_RULE = ("target_spacing_mm", "when_worse")  # keys of a rule that are ids of the bundle's inference


@dataclass(frozen=True)
class Facts:
    """Facts of a series that rules refer to.

    Attributes:
        modality: Modality.
        body_part: word of ``scripts.dicom.anatomy``, or empty.
        description: SeriesDescription.
        thickness_mm: SliceThickness, or ``None`` if it is not stated.
    """

    modality: str
    body_part: str
    description: str
    thickness_mm: float | None


def read_facts(files: Sequence[Path]) -> Facts | None:
    """Facts from the first file that can be read; ``None`` if none can."""
    from pydicom import dcmread
    from scripts.dicom.anatomy import body_part
    from scripts.dicom.values import text_of

    for file in files:
        try:
            header = dcmread(file, stop_before_pixels=True)
            groups = header.get("SharedFunctionalGroupsSequence") or [header]
            measures = groups[0].get("PixelMeasuresSequence") or [header]
            thickness = measures[0].get("SliceThickness")
            return Facts(
                text_of(header, "Modality"),
                body_part(header),
                text_of(header, "SeriesDescription"),
                None if thickness in (None, "") else float(thickness),
            )
        except Exception:  # pydicom may raise anything for a damaged file; the next file may be intact
            continue
    return None


def first_match(rules: Sequence[Rule], facts: Facts) -> int | None:
    """Index of the first rule that takes a series; ``None`` if none does."""
    return next((index for index, rule in enumerate(rules) if _matches(rule, facts)), None)


def _matches(rule: Rule, facts: Facts) -> bool:
    if facts.modality not in rule.modality:
        return False
    if rule.body_part is not None and facts.body_part not in rule.body_part:
        return False
    if rule.description is not None and not re.search(rule.description, facts.description, re.IGNORECASE):
        return False
    if rule.thickness_mm is None:
        return True
    lowest, highest = rule.thickness_mm
    return facts.thickness_mm is not None and lowest <= facts.thickness_mm <= highest


def inference_ids(rule: Rule) -> dict[str, Any]:
    """Ids of the bundle's inference that a rule sets."""
    return {name: value for name in FROM_RULE if (value := getattr(rule, name)) is not None}


def check_ids(rules: Sequence[Rule], known: Mapping[str, Any]) -> None:
    """Demand that this bundle has the ids that the rules set.

    Args:
        rules: the rules.
        known: content of the bundle's ``inference.json``.

    Raises:
        SettingsError: if an id is not in it.
    """
    for number, rule in enumerate(rules, 1):
        if unknown := [name for name in inference_ids(rule) if name not in known]:
            raise SettingsError(
                f"rule {number}: {unknown[0]} must be an id of this bundle's inference.json, which has none of that "
                "name; leave it out, or install a bundle that knows it"
            )
