# SPDX-License-Identifier: Apache-2.0
"""MONAI wrappers of :mod:`scripts.intensity`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..intensity import IntensityRange, ct_to_unit, mr_intensity_range
from ..reasons import CaseError, Reason
from .orient import padding_of

__all__ = ["RestoreMRd", "ScaleCTd", "ScaleMRd"]


class ScaleMRd(MapTransform):
    """Map scanner units to the unit range by percentiles of the measured voxels, which are stored in the meta data.

    Args:
        keys: MR volumes.
        lower_percentile: percentile that becomes -1.
        upper_percentile: percentile that becomes +1.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower_percentile: float,
        upper_percentile: float,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.percentiles = (lower_percentile, upper_percentile)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale every key.

        Raises:
            CaseError: ``NONFINITE`` or ``CONSTANT``.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            volume: torch.Tensor = result[key]
            if not bool(torch.isfinite(volume).all()):
                raise CaseError(Reason.NONFINITE, "intensities must be finite, got NaN or infinity; repair the image")
            padding = padding_of(volume) if isinstance(volume, MetaTensor) else None
            measured = volume if padding is None else volume[0][~padding]
            try:
                scale = mr_intensity_range(measured, *self.percentiles)
            except ValueError as error:
                raise CaseError(Reason.CONSTANT, str(error)) from error
            result[key] = scale.to_unit(volume)
            if isinstance(volume, MetaTensor):
                meta = result[key].meta
                meta["intensity_low"], meta["intensity_high"] = scale.low, scale.high
                meta["lowest_value"] = float(volume.min())
        return result


class RestoreMRd(MapTransform):
    """Map the unit range back to scanner units, **in place**, with the range in the meta data of ``image_key``.

    If the scan is a magnitude image (see :func:`scripts.transforms.consistency.magnitude_floor`), rounding puts no
    voxel below its minimum.

    Args:
        keys: volumes in the unit range, including the source.
        image_key: key of the source, whose meta data holds the range.
        map_keys: keys of differences, which have no offset, such as the disagreement map.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        map_keys: str | Sequence[str] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.map_keys = (map_keys,) if isinstance(map_keys, str) else tuple(map_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore every key."""
        result = dict(data)
        meta = result[self.image_key].meta
        scale = IntensityRange(float(meta["intensity_low"]), float(meta["intensity_high"]))
        for key in self.key_iterator(result):
            scale.from_unit_(result[key])
            if (lowest := float(meta.get("lowest_value", -1))) >= 0:
                result[key].clamp_(min=lowest)
        for key in self.map_keys:
            if key in result:
                result[key] *= (scale.high - scale.low) / 2
        return result


class ScaleCTd(MapTransform):
    """Map Hounsfield units to the unit range; see :func:`scripts.intensity.ct_to_unit`."""

    def __init__(
        self,
        keys: KeysCollection,
        window_hu: Sequence[float],
        padding_below_hu: float,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window_hu = (float(window_hu[0]), float(window_hu[1]))
        self.padding_below_hu = padding_below_hu

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = ct_to_unit(result[key], self.window_hu, self.padding_below_hu)
        return result
