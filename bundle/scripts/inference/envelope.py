# SPDX-License-Identifier: Apache-2.0
"""Compare a scan with those on which the shipped weights were trained and validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["other_body_part", "outside_envelope"]


def outside_envelope(facts: Mapping[str, float], limits: Mapping[str, Sequence[float]]) -> list[str]:
    """Compare measured values of a scan with the ranges that are known to work.

    Args:
        facts: name to measured value. NaN means that the source does not state the value; it is never outside.
        limits: the same names to ``(lowest, highest)``, both of which are inside.

    Returns:
        One line for each value outside its range; an empty list if there is none.

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
        found: a word of :mod:`scripts.dicom.anatomy`. An empty string means that the header states none; it is never
            outside.
        known: words of the same kind; empty for weights that suit every part of the body.

    Returns:
        One line if the scan shows another part of the body; otherwise an empty list.
    """
    if not found or not known or found in known:
        return []
    return [f"body part must be one of {', '.join(known)}, got {found}"]
