# SPDX-License-Identifier: Apache-2.0
"""Separate the maps from the result."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["SplitMapsd"]


class SplitMapsd(MapTransform):
    """Move the further channels of a result to separate keys.

    The inferer appends these channels (see :class:`scripts.inference.inferer.ThroughPlaneInferer`). ``disagreement`` is
    the standard deviation of the result over slice orientations and flips. ``error`` is the absolute error that the
    network expects.

    Args:
        keys: keys of the result, ``(1 + maps, ...)``.
        map_keys: keys of the maps, ``(1, ...)`` each, in the order of the channels.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, map_keys: Sequence[str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.map_keys = tuple(map_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            channels = result[key]
            result[key] = channels[0:1]
            for index, map_key in enumerate(self.map_keys, start=1):
                result[map_key] = channels[index : index + 1]
        return result
