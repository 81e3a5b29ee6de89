# SPDX-License-Identifier: Apache-2.0
"""Reduce a loaded scan to a training volume: a plain tensor and its spacing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..geometry import voxel_spacing_mm
from .orient import thickness_to_spacing, working_spacing_mm

__all__ = ["PlainVolumed"]


class PlainVolumed(MapTransform):
    """Drop the meta data, which training patches do not need.

    ``spacing_mm`` and, for an oriented volume, ``thickness_to_spacing`` are kept. The spacing is that of the working
    axes if the volume was oriented, else that of the stored axes.
    """

    def __init__(self, keys: KeysCollection, spacing_key: str = "spacing_mm", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_key = spacing_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Strip every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume: MetaTensor = result[key]
            if "working_spacing_mm" in volume.meta:
                spacing = working_spacing_mm(volume)
            else:
                spacing = voxel_spacing_mm(np.asarray(volume.meta["affine"], dtype=np.float64).reshape(4, 4))
            result[self.spacing_key] = tuple(float(s) for s in spacing)
            if "working_spacing_mm" in volume.meta:
                result["thickness_to_spacing"] = thickness_to_spacing(volume)
            result[key] = volume.as_tensor().contiguous()
        return result
