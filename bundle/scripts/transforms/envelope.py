# SPDX-License-Identifier: Apache-2.0
"""Check whether a scan lies inside the validity envelope; warn or refuse if it does not."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ..inference.envelope import other_body_part, outside_envelope
from ..intensity import AIR_LEVEL
from ..reasons import CaseError, Reason
from .consistency import in_plane_noise_sigma
from .orient import padding_of, working_spacing_mm

__all__ = ["CheckEnvelope", "CheckEnveloped", "scan_facts"]

POLICIES = ("warn", "refuse")


def scan_facts(image: MetaTensor) -> dict[str, float]:
    """Measure the quantities that the envelope limits, on an oriented scan in the unit range.

    Args:
        image: ``(1, H1, H2, n_slices)`` with the meta data of :class:`scripts.transforms.orient.OrientThickAxisLast`.

    Returns:
        ``in_plane_spacing_mm`` (the coarser of the two), ``in_plane_anisotropy``, ``slice_spacing_mm``,
        ``slice_thickness_to_spacing`` (NaN if not stated), ``noise_sigma`` (fraction of the range of intensities),
        ``tissue_fraction`` (of the voxels), ``median_tissue`` (place of the median tissue intensity in that range).
    """
    rows, columns, slices = map(float, working_spacing_mm(image))
    voxels = image.as_tensor()
    padding = padding_of(image)
    measured = voxels if padding is None else voxels[0][~padding]
    tissue = measured[measured > AIR_LEVEL]
    return {
        "in_plane_spacing_mm": max(rows, columns),
        "in_plane_anisotropy": max(rows, columns) / min(rows, columns),
        "slice_spacing_mm": slices,
        "slice_thickness_to_spacing": float(image.meta["slice_thickness_mm"]) / slices,
        "noise_sigma": in_plane_noise_sigma(voxels) / 2,
        "tissue_fraction": tissue.numel() / measured.numel(),
        "median_tissue": (float(tissue.median()) + 1) / 2 if tissue.numel() else 0.0,
    }


class CheckEnvelope(Transform):
    """Measure a scan and compare with the envelope.

    Args:
        limits: see :func:`scripts.inference.envelope.outside_envelope`.
        policy: ``warn`` logs a warning and processes the scan; ``refuse`` raises an error.
        body_parts: see :func:`scripts.inference.envelope.other_body_part`.
        min_thickness_to_spacing: slices thinner than this share of their spacing are refused whatever the policy,
            because most of what lies between them was never acquired; 0 refuses none.
        slice_thickness_mm: overrides the header's thickness.

    Raises:
        ValueError: for an unknown policy.
    """

    def __init__(
        self,
        limits: Mapping[str, Sequence[float]],
        policy: str = "warn",
        body_parts: Sequence[str] = (),
        min_thickness_to_spacing: float = 0,
        slice_thickness_mm: float | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"envelope_policy must be one of {POLICIES}, got {policy!r}; correct the id")
        self.limits = limits
        self.policy = policy
        self.body_parts = tuple(body_parts)
        self.min_thickness_to_spacing = min_thickness_to_spacing
        self.slice_thickness_mm = slice_thickness_mm
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(self, image: MetaTensor) -> list[str]:
        """One line for each quantity that is outside its limits.

        Raises:
            CaseError: ``OUTSIDE_ENVELOPE`` under the policy ``refuse``; ``THIN_SLICES``.
        """
        self._check_thickness(image)
        outside = outside_envelope(scan_facts(image), self.limits)
        outside += other_body_part(str(image.meta.get("body_part", "")), self.body_parts)
        if outside and self.policy == "refuse":
            raise CaseError(Reason.OUTSIDE_ENVELOPE, "; ".join(outside))
        for line in outside:
            self.logger.warning("outside the validity envelope: %s", line)
        return outside

    def _check_thickness(self, image: MetaTensor) -> None:
        spacing = float(working_spacing_mm(image)[2])
        stated = image.meta["slice_thickness_mm"] if self.slice_thickness_mm is None else self.slice_thickness_mm
        if float(stated) < self.min_thickness_to_spacing * spacing:
            raise CaseError(
                Reason.THIN_SLICES,
                f"slices must be at least {self.min_thickness_to_spacing:g} of their spacing thick, got "
                f"{float(stated):.3g} of {spacing:.3g} mm; send all slices, or set min_thickness_to_spacing to 0",
            )


class CheckEnveloped(MapTransform):
    """Dictionary form of :class:`CheckEnvelope`; the lines go to ``data[key].meta["outside_envelope"]``."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **check: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.check = CheckEnvelope(**check)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume: MetaTensor = result[key]
            volume.meta["outside_envelope"] = self.check(volume)
        return result
