# SPDX-License-Identifier: Apache-2.0
"""Make a thick-slice input of a thin-slice target, with a slice profile drawn at random."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, Transform

from ..degradation import SliceProfileOperator

__all__ = ["RandDegrade", "RandDegraded"]


class RandDegrade(Randomizable, Transform):
    """Apply D along the last axis, with profile and width drawn at random.

    Args:
        scale_factor: K.
        profiles: names of :data:`scripts.degradation.SLICE_PROFILES` mapped to their probabilities (any sum).
        thickness_to_spacing: range of slice thickness / slice spacing, drawn uniformly; FWHM = K times that.
        margin_slices: slices cut off each end of the result and of the target, so that no slice of the pair was made
            near the patch's border, where the profile would have been cut short.
    """

    def __init__(
        self,
        scale_factor: int,
        profiles: Mapping[str, float],
        thickness_to_spacing: Sequence[float],
        margin_slices: int = 0,
    ) -> None:
        self.scale_factor = scale_factor
        self.names = list(profiles)
        weights = np.array([profiles[name] for name in self.names], dtype=np.float64)
        self.probabilities = weights / weights.sum()
        self.thickness_to_spacing = thickness_to_spacing
        self.margin_slices = margin_slices

    def __call__(self, hr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(..., K * n)`` to ``(lr, hr)`` of shapes ``(..., n - 2 margin)`` and ``(..., K * (n - 2 margin))``."""
        profile = self.names[self.R.choice(len(self.names), p=self.probabilities)]
        # two decimals: the operator's matrix is cached per width
        ratio = round(float(self.R.uniform(self.thickness_to_spacing[0], self.thickness_to_spacing[1])), 2)
        operator = SliceProfileOperator(self.scale_factor, profile, fwhm=ratio * self.scale_factor)
        lr = operator.degrade(hr)
        kept = lr.shape[-1] - 2 * self.margin_slices
        return (
            lr.narrow(-1, self.margin_slices, kept).contiguous(),
            hr.narrow(-1, self.margin_slices * self.scale_factor, kept * self.scale_factor).contiguous(),
        )


class RandDegraded(Randomizable, MapTransform):
    """Dictionary form: ``data[key]`` becomes the thick-slice input, ``data[label_key]`` the thin-slice target."""

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        allow_missing_keys: bool = False,
        **degrade: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.degrade = RandDegrade(**degrade)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandDegraded:
        """Seed the wrapped transform."""
        super().set_random_state(seed, state)
        self.degrade.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the pair."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key], result[self.label_key] = self.degrade(result[key])
        return result
