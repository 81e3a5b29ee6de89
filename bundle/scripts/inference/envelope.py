# SPDX-License-Identifier: Apache-2.0
"""Whether a scan is like those that the shipped weights were trained and validated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["other_body_part", "outside_envelope"]


def outside_envelope(facts: Mapping[str, float], limits: Mapping[str, Sequence[float]]) -> list[str]:
    """Compare what was measured of a scan with the ranges that are known to work.

    Args:
        facts: measured values by name; NaN where the source does not state one, which is never outside.
        limits: ``(lowest, highest)`` by the same names, both inside.

    Returns:
        One line for each value outside, empty for a scan inside.

    Raises:
        ValueError: for a limit whose value was not measured.
    """
    unknown = sorted(set(limits) - set(facts))
    if unknown:
        raise ValueError(f"envelope must name measured values {sorted(facts)}, got {unknown}; correct the id")
    return [
        f"{name} must lie in {low:g} to {high:g}, got {facts[name]:.3g}"
        for name, (low, high) in limits.items()
        if facts[name] < low or facts[name] > high
    ]


def other_body_part(found: str, known: Sequence[str]) -> list[str]:
    """Compare the part of the body that a scan's header names with those that the weights have seen.

    Args:
        found: a word of :mod:`scripts.dicom.anatomy`; empty where nothing is stated, which is never outside.
        known: words of the same kind; empty for weights that know all.

    Returns:
        One line for a scan of another part.
    """
    if not found or not known or found in known:
        return []
    return [f"body part must be one of {', '.join(known)}, got {found}"]
