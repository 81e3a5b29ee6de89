# SPDX-License-Identifier: Apache-2.0
"""Make a thick-slice input of a thin-slice target: patches with a random slice profile, volumes with a given one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform

from ..degradation import SliceProfileOperator
from ..geometry import find_thick_axis, thick_slice_affine, voxel_spacing_mm

__all__ = ["DegradeVolume", "DegradeVolumed", "RandDegrade", "RandDegraded", "thicken"]


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


class DegradeVolume(Transform):
    """Acquire a thin-slice volume as thick slices: what an evaluation gives the network, and the truth beside it.

    Args:
        scale_factor: K.
        thick_axis: voxel axis 0, 1 or 2, or the plane of the slices: ``sagittal``, ``coronal`` or ``axial``.
        profile: slice profile.
        thickness_to_spacing: slice thickness over slice spacing; FWHM = K times that.
    """

    def __init__(
        self, scale_factor: int, thick_axis: str | int, profile: str = "gaussian", thickness_to_spacing: float = 1.0
    ) -> None:
        self.scale_factor = scale_factor
        self.thick_axis = thick_axis
        self.operator = SliceProfileOperator(scale_factor, profile, scale_factor * thickness_to_spacing)
        self.thickness_to_spacing = thickness_to_spacing

    def __call__(self, volume: MetaTensor) -> tuple[MetaTensor, MetaTensor]:
        """``(1, I, J, K)`` thin slices to thick slices and the thin ones they cover (a remainder is cut off the end).

        Raises:
            ValueError: if there are fewer than K slices, or the axis is not found.
        """
        affine = np.asarray(volume.meta["original_affine"], dtype=np.float64).reshape(4, 4)
        axis = find_thick_axis(affine, self.thick_axis)
        length = volume.shape[1 + axis] // self.scale_factor * self.scale_factor
        thin = volume.as_tensor().narrow(1 + axis, 0, length)
        thick = self.operator.degrade(thin.movedim(1 + axis, -1).double()).float().movedim(-1, 1 + axis).contiguous()
        thick_affine = thick_slice_affine(affine, axis, self.scale_factor)
        thickness_mm = float(voxel_spacing_mm(thick_affine)[axis]) * self.thickness_to_spacing
        return (
            _placed(
                thick, {**volume.meta, "slice_thickness_mm": thickness_mm, "stored_dtype": "float32"}, thick_affine
            ),
            _placed(thin.contiguous(), dict(volume.meta), affine),
        )


def _placed(volume: torch.Tensor, meta: dict[str, Any], affine: np.ndarray) -> MetaTensor:
    tensor = torch.from_numpy(affine.copy())
    meta.update(affine=tensor, original_affine=tensor.clone(), spatial_shape=np.asarray(volume.shape[1:]))
    return MetaTensor(volume, meta=meta)


class DegradeVolumed(MapTransform):
    """Dictionary form: ``data[key]`` becomes thick, ``data[label_key]`` is what it was."""

    def __init__(
        self, keys: KeysCollection, label_key: str = "label", allow_missing_keys: bool = False, **degrade: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.degrade = DegradeVolume(**degrade)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the pair."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key], result[self.label_key] = self.degrade(result[key])
        return result


def thicken(volume: np.ndarray, affine_ras: np.ndarray, **degrade: Any) -> tuple[np.ndarray, np.ndarray]:
    """Acquire a thin-slice volume as thick slices.

    Args:
        volume: ``(I, J, K)``; slices left over at its end are not used.
        affine_ras: ``(4, 4)``.
        degrade: ``scale_factor``, ``thick_axis`` and the other arguments of ``DegradeVolume``.

    Returns:
        Float32 thick slices and their affine.
    """
    affine = np.asarray(affine_ras, dtype=np.float64)
    image = MetaTensor(torch.from_numpy(np.float32(volume))[None], meta={"original_affine": affine})
    thick, _ = DegradeVolume(**degrade)(image)
    return thick[0].numpy(), thick.affine.numpy()
