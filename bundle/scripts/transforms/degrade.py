# SPDX-License-Identifier: Apache-2.0
"""Make thick-slice inputs from thin-slice targets: patches with a random acquisition, volumes with a given one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform

from ..degradation import SliceProfileOperator
from ..geometry import SliceGrid, find_thick_axis, voxel_spacing_mm

__all__ = ["DegradeVolume", "DegradeVolumed", "DescribeThickd", "RandDegrade", "RandDegraded", "thicken"]


class RandDegrade(Randomizable, Transform):
    """Apply D along the last axis of a patch, with profile and thickness drawn at random.

    The patch is wider than the target by ``margin`` on both sides, so that no slice is made near its border, where
    the profile would be truncated.

    Args:
        profiles: names of :data:`scripts.degradation.SLICE_PROFILES` mapped to their probabilities (any sum).
        thickness_to_spacing: range of slice thickness / slice spacing, drawn from a triangle with its tip at 1 (slices
            that touch), or at the end of the range that is nearest to that.
        margin: thin slices on each side that are used to make thick slices and are not part of the target.
        noise_std: largest standard deviation of the noise (unit range) that is added to the thick slices. Averaging
            takes the noise of the patch away, but acquired slices have noise of their own, which the network must not
            sharpen. Half of the patches get none, the others any amount up to this.
    """

    def __init__(
        self,
        profiles: Mapping[str, float],
        thickness_to_spacing: Sequence[float],
        margin: int,
        noise_std: float = 0.0,
    ) -> None:
        self.names = list(profiles)
        weights = np.array([profiles[name] for name in self.names], dtype=np.float64)
        self.probabilities = weights / weights.sum()
        self.thickness_to_spacing = thickness_to_spacing
        self.margin = margin
        self.noise_std = noise_std

    def __call__(
        self, hr: torch.Tensor, scale_factor: float, row_to_thin_spacing: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make a patch thick.

        Args:
            hr: ``(..., columns + 2 margin)``.
            scale_factor: K.
            row_to_thin_spacing: spacing of the patch's rows over that of its columns.

        Returns:
            Thick slices ``(..., ceil(columns / K))``, target ``(..., columns)``, and further inputs of SRNet:
            positions ``(columns,)`` and condition ``(4,)``.
        """
        profile = self.names[self.R.choice(len(self.names), p=self.probabilities)]
        low, high = self.thickness_to_spacing
        thickness = float(self.R.triangular(low, np.clip(1.0, low, high), high)) if low < high else float(low)
        columns = hr.shape[-1] - 2 * self.margin
        grid = SliceGrid.covering(columns, scale_factor)
        lr = SliceProfileOperator(grid.widened(self.margin), profile, thickness).degrade(hr)
        sigma = max(0.0, self.R.uniform(-self.noise_std, self.noise_std))
        if sigma > 0:
            lr = lr + sigma * torch.from_numpy(self.R.standard_normal(lr.shape)).to(lr)
        positions, condition = SliceProfileOperator(grid, profile, thickness).told(row_to_thin_spacing / scale_factor)
        return lr.contiguous(), hr.narrow(-1, self.margin, columns).contiguous(), positions, condition[0]


class RandDegraded(Randomizable, MapTransform):
    """Dictionary form for patches of :class:`scripts.transforms.patch.RandPlanePatchd`.

    ``data[key]`` becomes the thick-slice input and ``data["label"]`` the thin-slice target. ``data["positions"]`` and
    ``data["condition"]`` are further inputs of the network. K is read from ``data["scale_factor"]``, the spacings of
    the patch from ``data["spacing_mm"]``.

    Args:
        keys: patches.
        beside: keys of other data on the thin grid of the patch, such as a guide; they are cut to the target's columns.
        allow_missing_keys: as in MONAI.
        degrade: arguments of :class:`RandDegrade`.
    """

    def __init__(
        self, keys: KeysCollection, beside: Sequence[str] = (), allow_missing_keys: bool = False, **degrade: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.beside = tuple(beside)
        self.degrade = RandDegrade(**degrade)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandDegraded:
        """Seed the wrapped transform."""
        super().set_random_state(seed, state)
        self.degrade.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the pair."""
        result = dict(data)
        rows_mm, thin_mm = (float(spacing) for spacing in result["spacing_mm"])
        for key in self.key_iterator(result):
            result[key], result["label"], result["positions"], result["condition"] = self.degrade(
                result[key], float(result["scale_factor"]), rows_mm / thin_mm
            )
        for key in self.beside:
            columns = result[key].shape[-1] - 2 * self.degrade.margin
            result[key] = result[key].narrow(-1, self.degrade.margin, columns).contiguous()
        return result


class DescribeThickd(MapTransform):
    """Add the further inputs of the network for a patch of acquired thick slices: ``positions`` and ``condition``.

    Args:
        keys: patches, which are not changed.
        columns: number of thin slices in the window that the thick slices cover.
        profile: slice profile of the scans.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, columns: int, profile: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.columns = columns
        self.profile = profile

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Describe."""
        result = dict(data)
        grid = SliceGrid.covering(self.columns, float(result["scale_factor"]))
        rows_mm, slices_mm = (float(spacing) for spacing in result["spacing_mm"])
        operator = SliceProfileOperator(grid, self.profile, float(result["thickness_to_spacing"]))
        result["positions"], condition = operator.told(rows_mm / slices_mm)
        result["condition"] = condition[0]
        return result


class DegradeVolume(Transform):
    """Make a thin-slice volume thick, for evaluations. The thin slices are the truth.

    Args:
        scale_factor: K, any real number > 1.
        thick_axis: voxel axis 0, 1 or 2, or the plane of the slices: ``sagittal``, ``coronal`` or ``axial``.
        profile: slice profile.
        thickness_to_spacing: slice thickness over slice spacing.
    """

    def __init__(
        self, scale_factor: float, thick_axis: str | int, profile: str = "gaussian", thickness_to_spacing: float = 1.0
    ) -> None:
        if not scale_factor > 1:
            raise ValueError(f"the factor of an evaluation must be > 1, got {scale_factor}; correct evaluation_factor")
        self.scale_factor = float(scale_factor)
        self.thick_axis = thick_axis
        self.profile = profile
        self.thickness_to_spacing = thickness_to_spacing

    def __call__(self, volume: MetaTensor) -> tuple[MetaTensor, MetaTensor]:
        """``(1, I, J, K)`` thin slices to thick slices and the thin ones they cover; a remainder at the end is cut off.

        Raises:
            ValueError: if there are fewer than K slices, or the axis is not found.
        """
        affine = np.asarray(volume.meta["original_affine"], dtype=np.float64).reshape(4, 4)
        axis = find_thick_axis(affine, self.thick_axis)
        grid = SliceGrid.under_slab(volume.shape[1 + axis], self.scale_factor)
        operator = SliceProfileOperator(grid, self.profile, self.thickness_to_spacing)
        thin = volume.as_tensor().narrow(1 + axis, 0, grid.n_thin)
        thick = operator.degrade(thin.movedim(1 + axis, -1).double()).float().movedim(-1, 1 + axis).contiguous()
        thick_affine = grid.thick_affine(affine, axis)
        thickness_mm = float(voxel_spacing_mm(thick_affine)[axis]) * self.thickness_to_spacing
        meta = {
            key: value for key, value in volume.meta.items() if not key.startswith("padding")
        }  # all counts as truth
        return (
            _placed(thick, {**meta, "slice_thickness_mm": thickness_mm, "stored_dtype": "float32"}, thick_affine),
            _placed(thin.contiguous(), meta, affine),
        )


def _placed(volume: torch.Tensor, meta: dict[str, Any], affine: np.ndarray) -> MetaTensor:
    tensor = torch.from_numpy(affine.copy())
    meta.update(affine=tensor, original_affine=tensor.clone(), spatial_shape=np.asarray(volume.shape[1:]))
    return MetaTensor(volume, meta=meta)


class DegradeVolumed(MapTransform):
    """Dictionary form: ``data[key]`` becomes thick, and ``data[label_key]`` holds the original."""

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
    """Make a thin-slice volume thick.

    Args:
        volume: ``(I, J, K)``; slices left over at its end are not used.
        affine_ras: ``(4, 4)`` RAS affine of the volume.
        degrade: ``scale_factor``, ``thick_axis`` and the other arguments of ``DegradeVolume``.

    Returns:
        Float32 thick slices and their affine.
    """
    affine = np.asarray(affine_ras, dtype=np.float64)
    image = MetaTensor(torch.from_numpy(np.float32(volume))[None], meta={"original_affine": affine})
    thick, _ = DegradeVolume(**degrade)(image)
    return thick[0].numpy(), thick.affine.numpy()
