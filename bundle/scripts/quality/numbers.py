# SPDX-License-Identifier: Apache-2.0
"""The quality figures of a scan, and the limits beyond which they indicate a fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..transforms.consistency import in_plane_noise_sigma
from .between import intensity_steps, opposed_shift, slice_shifts
from .within import detail_db, ghosting, spikes_db

__all__ = ["NUMBERS", "UNPREDICTABLE", "flags", "measure", "with_limits"]

# faults that slices made thick in-plane do not have, or that their truth has as well
UNPREDICTABLE = ("detail_db", "spikes_db", "motion_pixels", "odd_even_step", "largest_step")
NUMBERS = (
    "gain_over_cubic_db", "gain_over_consistent_cubic_db", "noise_sigma", "ghosting", *UNPREDICTABLE,
)  # fmt: skip


def measure(slices: torch.Tensor, step_share: float = 0.8) -> dict[str, float | None]:
    """Faults between and within slices.

    Args:
        slices: ``(H1, H2, n)``, unit range.
        step_share: share of a slice's tissue that must agree on ``largest_step``.

    Returns:
        * ``noise_sigma``: standard deviation of the noise, as a share of the range of intensities;
        * ``ghosting``: see :func:`scripts.quality.within.ghosting`;
        * ``detail_db``: see :func:`scripts.quality.within.detail_db`;
        * ``spikes_db``: see :func:`scripts.quality.within.spikes_db`;
        * ``motion_pixels``: see :func:`scripts.quality.between.opposed_shift`;
        * ``odd_even_step``: relative difference in brightness between even and odd slices;
        * ``largest_step``: largest relative difference of nearly all tissue of a slice from its neighbours.

        ``None`` stands for a figure that cannot be measured on this scan.
    """
    # at the ends, the anatomy itself begins and stops
    steps, agreed = intensity_steps(slices, (0.5, step_share))[:, 1:-1]
    signs = 1 - 2 * (torch.arange(len(steps)) % 2)
    return {
        "noise_sigma": in_plane_noise_sigma(slices[None]) / 2,
        "ghosting": ghosting(slices),
        "detail_db": detail_db(slices),
        "spikes_db": spikes_db(slices),
        "motion_pixels": opposed_shift(slice_shifts(slices)),
        "odd_even_step": float((steps * signs).mean().abs()) if len(steps) else None,
        "largest_step": float(agreed.abs().max()) if len(agreed) else None,
    }


def with_limits(numbers: Mapping[str, float | None], limits: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Every number with its limit: ``{"value": v, "at_most": limit}`` or ``{"value": v, "at_least": limit}``."""
    return {name: {"value": value, **limits[name]} for name, value in numbers.items()}


def flags(numbers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the numbers of :func:`with_limits` that are beyond their limits."""
    return [
        name
        for name, number in numbers.items()
        if number["value"] is not None
        and (number["value"] > number.get("at_most", number["value"])
             or number["value"] < number.get("at_least", number["value"]))
    ]  # fmt: skip
