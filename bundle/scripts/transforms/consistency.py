# SPDX-License-Identifier: Apache-2.0
"""Data consistency: degrading the result gives the acquired slices again."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ..degradation import SliceProfileOperator
from ..intensity import TISSUE_LEVEL
from .orient import padding_of, slice_grid, thickness_to_spacing

__all__ = [
    "DataConsistency",
    "DataConsistencyd",
    "in_plane_noise_sigma",
    "magnitude_floor",
    "noise_to_signal",
    "scan_operator",
]

MODES = ("exact", "regularised", "off")
FLOOR_TOLERANCE = 1e-3  # in the unit range [-1, 1], so half a thousandth of the scan's range


def scan_operator(image: MetaTensor, profile: str, slice_thickness_mm: float | None) -> SliceProfileOperator:
    """The operator with which a scan was acquired: its width is the slice thickness, its steps the slice spacing.

    Args:
        image: oriented scan with K in its meta data.
        profile: slice profile.
        slice_thickness_mm: overrides the header's thickness.
    """
    return SliceProfileOperator(slice_grid(image), profile, thickness_to_spacing(image, slice_thickness_mm))


def in_plane_noise_sigma(slices: torch.Tensor, block: int = 8) -> float:
    """Standard deviation of the noise in acquired slices, measured in-plane.

    It comes from the diagonal detail of one Haar wavelet step. In a block that holds only noise, the median absolute
    value is 0.6745 sigma (Donoho and Johnstone, 1994). Structure raises it, so the 20th percentile over the blocks of
    tissue is taken. Air is left out, because magnitude images have less noise there.

    Args:
        slices: ``(1, H1, H2, n_slices)``, unit range.
        block: side of a block of wavelet coefficients.
    """
    x = slices[0].movedim(-1, 0)
    side = 2 * block
    x = x[:, : x.shape[1] // side * side, : x.shape[2] // side * side]
    detail = (x[:, 0::2, 0::2] - x[:, 1::2, 0::2] - x[:, 0::2, 1::2] + x[:, 1::2, 1::2]).abs() / 2
    if not detail.numel():
        return 0.0
    medians = _blocks(detail, block).median(dim=-1).values
    tissue = _blocks(x, side).mean(dim=-1) > TISSUE_LEVEL
    if bool(tissue.any()):
        medians = medians[tissue]
    return float(medians.kthvalue(1 + len(medians) // 5).values) / 0.6745


def noise_to_signal(acquired: torch.Tensor, padding: torch.Tensor | None = None) -> float:
    """The ``eps`` of regularised data consistency (see :class:`DataConsistency`).

    Args:
        acquired: ``(1, H1, H2, n_slices)``, unit range.
        padding: ``(H1, H2, n_slices)``, true where nothing was measured (see
            :func:`scripts.transforms.orient.padding_of`).
    """
    noise = in_plane_noise_sigma(acquired) ** 2
    steps = acquired[0].diff(dim=-1).square()
    if padding is not None:
        steps = steps[~(padding[..., 1:] | padding[..., :-1]).to(steps.device)]
    difference = float(steps.mean()) / 2
    signal = max(difference - noise, 1e-3 * difference)
    return noise / signal if signal > 0 else 0.0


def _blocks(images: torch.Tensor, side: int) -> torch.Tensor:
    """``(n, h, w)`` to ``(n * blocks, side * side)``."""
    return images.unfold(1, side, side).unfold(2, side, side).reshape(-1, side * side)


def magnitude_floor(image: MetaTensor) -> float | None:
    """The lowest possible value of a scan in the unit range; None if its values may be negative.

    A scan without negative values is taken for a magnitude image, which has a zero. A result below the minimum of the
    scan is then an undershoot beside a sharp edge.
    """
    return float(image.min()) if float(image.meta.get("lowest_value", -1)) >= 0 else None


class DataConsistency(Transform):
    """Correct a result so that it agrees with the acquired slices (see :meth:`SliceProfileOperator.enforce`).

    Padded voxels are not acquired values, so nothing is corrected there. In every mode, the result of a magnitude image
    is raised to its floor (:meth:`SliceProfileOperator.raise_to`).

    ``exact`` reproduces the slices exactly, including their noise. ``regularised`` is the Wiener form: ``eps`` is the
    variance of the noise, measured in-plane, over the variance of the signal, measured from the differences between
    neighbouring slices, ``mean((y_k+1 - y_k)^2) / 2 - noise``. So a clean scan is reproduced almost exactly, and a
    noisy one only as far as its noise allows. ``off`` makes no correction.

    Args:
        mode: ``exact``, ``regularised`` or ``off``.
        profile: slice profile of the scan.
        slice_thickness_mm: overrides the header's thickness.
    """

    def __init__(self, mode: str, profile: str = "gaussian", slice_thickness_mm: float | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"data_consistency must be one of {MODES}, got {mode!r}; correct the id")
        self.mode = mode
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(self, pred: torch.Tensor, image: MetaTensor) -> tuple[torch.Tensor, float, int]:
        """Correct one volume **in place**.

        Args:
            pred: ``(1, H1, H2, n_thin)`` in working axes and unit range; overwritten.
            image: ``(1, H1, H2, n_slices)``, the scan in the same range.

        Returns:
            ``pred``, the remaining residual ``rms(y - D x)`` as a fraction of the scan's range, and the number of
            voxels that were raised to the floor.
        """
        operator = scan_operator(image, self.profile, self.slice_thickness_mm)
        acquired = image.as_tensor()
        volume = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
        padding = padding_of(image)
        if padding is not None:
            acquired = torch.where(padding.to(volume.device), operator.degrade(volume), acquired.to(volume))
        before = self._residual(operator, volume, acquired)
        if self.mode != "off":
            eps = 0.0 if self.mode == "exact" else noise_to_signal(acquired, padding)
            operator.enforce(volume[0], acquired[0].to(volume), eps)
        floor = magnitude_floor(image)
        raised = 0 if floor is None else operator.raise_to(volume[0], floor, FLOOR_TOLERANCE)
        after = self._residual(operator, volume, acquired)
        value_range = float(image.max() - image.min())
        self.logger.info(
            "data consistency %s: residual %.2e -> %.2e of the range; %d voxels raised to the scan's minimum",
            self.mode, before / value_range, after / value_range, raised,
        )  # fmt: skip
        return pred, after / value_range, raised

    @staticmethod
    def _residual(operator: SliceProfileOperator, volume: torch.Tensor, acquired: torch.Tensor) -> float:
        """``rms(y - D x)``, slab by slab."""
        total = sum(
            float((operator.degrade(x) - y.to(x)).square().sum(dtype=torch.float64))
            for x, y in zip(volume[0], acquired[0], strict=True)
        )
        return (total / acquired.numel()) ** 0.5


class DataConsistencyd(MapTransform):
    """Dictionary form of :class:`DataConsistency`; residual and raised voxels go to ``data[image_key].meta``."""

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        allow_missing_keys: bool = False,
        **consistency: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.consistency = DataConsistency(**consistency)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct every key."""
        result = dict(data)
        image = result[self.image_key]
        for key in self.key_iterator(result):
            result[key], residual, raised = self.consistency(result[key], image)
            image.meta["data_consistency_residual"], image.meta["raised_voxels"] = residual, raised
        return result
