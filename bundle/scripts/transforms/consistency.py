# SPDX-License-Identifier: Apache-2.0
"""Data consistency: the output, degraded again, gives the acquired slices."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ..degradation import SliceProfileOperator
from .orient import working_spacing_mm

__all__ = ["DataConsistency", "DataConsistencyd", "in_plane_noise_sigma", "scan_operator"]

MODES = ("exact", "regularised", "off")


def scan_operator(
    image: MetaTensor, scale_factor: int, profile: str, slice_thickness_mm: float | None
) -> SliceProfileOperator:
    """The operator that acquired a scan: width from the slice thickness, step from the slice positions.

    Args:
        image: oriented scan; its meta data holds the spacing and, if known, the thickness.
        scale_factor: K.
        profile: slice profile.
        slice_thickness_mm: overrides the header. ``None``: header, and where that is silent the slice spacing.
    """
    slice_spacing_mm = float(working_spacing_mm(image)[2])
    thickness_mm = float(image.meta["slice_thickness_mm"]) if slice_thickness_mm is None else float(slice_thickness_mm)
    if not np.isfinite(thickness_mm):
        thickness_mm = slice_spacing_mm
    # a profile narrower than one HR voxel cannot be told from one that is as wide
    fwhm = max(1.0, scale_factor * thickness_mm / slice_spacing_mm)
    return SliceProfileOperator(scale_factor, profile, round(fwhm, 4))


def in_plane_noise_sigma(slices: torch.Tensor) -> float:
    """Standard deviation of white noise in acquired slices.

    Median absolute deviation of the diagonal detail of one Haar wavelet step, ``MAD / 0.6745`` (Donoho and Johnstone,
    1994). Voxels of exactly equal neighbourhood (masked air) are left out.

    Args:
        slices: ``(1, H1, H2, n_slices)``.
    """
    x = slices[0]
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    detail = (x[0:h:2, 0:w:2] - x[1:h:2, 0:w:2] - x[0:h:2, 1:w:2] + x[1:h:2, 1:w:2]) / 2
    detail = detail[detail != 0].abs()
    return float(detail.median()) / 0.6745 if detail.numel() else 0.0


class DataConsistency(Transform):
    """Correct a result so that it explains the acquired slices (see :meth:`SliceProfileOperator.enforce`).

    ``exact`` explains them to the last digit, noise included. ``regularised`` weighs the noise of the slices, measured
    in-plane, against the error of the result, measured by its residual: with residual variance ``v`` and noise variance
    ``s``, the error of the result per HR voxel is ``(v - s) / mean(diag(D D^T))`` and ``eps`` is their ratio. ``off``
    only measures.

    Args:
        mode: ``exact``, ``regularised`` or ``off``.
        scale_factor: K.
        profile: slice profile of the scan.
        slice_thickness_mm: overrides the header's thickness.
    """

    def __init__(
        self, mode: str, scale_factor: int, profile: str = "gaussian", slice_thickness_mm: float | None = None
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"data_consistency must be one of {MODES}, got {mode!r}; correct the id")
        self.mode = mode
        self.scale_factor = scale_factor
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(self, pred: torch.Tensor, image: MetaTensor) -> tuple[torch.Tensor, float]:
        """Correct one volume **in place**.

        Args:
            pred: ``(1, H1, H2, K * n_slices)`` in working axes and unit range; overwritten.
            image: ``(1, H1, H2, n_slices)``, the scan in the same range.

        Returns:
            ``pred`` and the residual ``rms(y - D x)`` that remains, as a fraction of the scan's range.
        """
        operator = scan_operator(image, self.scale_factor, self.profile, self.slice_thickness_mm)
        acquired = image.as_tensor()
        volume = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
        before = self._residual(operator, volume, acquired)
        if self.mode != "off":
            eps = 0.0 if self.mode == "exact" else self._noise_to_error(operator, before, acquired)
            operator.enforce(volume[0], acquired[0].to(volume), eps)
        after = self._residual(operator, volume, acquired)
        value_range = float(acquired.max() - acquired.min())
        self.logger.info(
            "data consistency %s: residual %.2e -> %.2e of the range",
            self.mode,
            before / value_range,
            after / value_range,
        )
        return pred, after / value_range

    @staticmethod
    def _residual(operator: SliceProfileOperator, volume: torch.Tensor, acquired: torch.Tensor) -> float:
        """``rms(y - D x)``, slab by slab."""
        total = sum(
            float((operator.degrade(x) - y.to(x)).square().sum(dtype=torch.float64))
            for x, y in zip(volume[0], acquired[0], strict=True)
        )
        return (total / acquired.numel()) ** 0.5

    @staticmethod
    def _noise_to_error(operator: SliceProfileOperator, residual: float, acquired: torch.Tensor) -> float:
        noise = in_plane_noise_sigma(acquired) ** 2
        gain = float((operator.matrix(acquired.shape[-1]) ** 2).sum(axis=1).mean())
        error = max(residual**2 - noise, 1e-2 * residual**2) / gain
        return noise / error if error > 0 else 0.0


class DataConsistencyd(MapTransform):
    """Dictionary form of :class:`DataConsistency`; the residual goes to ``data[image_key].meta``."""

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
            result[key], image.meta["data_consistency_residual"] = self.consistency(result[key], image)
        return result
