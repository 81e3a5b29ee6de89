# SPDX-License-Identifier: Apache-2.0
"""The disagreement map leaves the result and becomes an output of its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["SplitDisagreementd"]


class SplitDisagreementd(MapTransform):
    """Move the second channel of a result, where there is one, to ``data[map_key]``.

    The inferer appends it (see :class:`scripts.inference.inferer.ThroughPlaneInferer`): the standard deviation of the
    result over slice orientations and flips. It says where the network contradicts itself, not how wrong it is.

    Args:
        keys: the result, ``(1 or 2, ...)``.
        map_key: where the map goes, ``(1, ...)``.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, map_key: str = "disagreement", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.map_key = map_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            if result[key].shape[0] == 2:
                result[key], result[self.map_key] = result[key][0:1], result[key][1:2]
        return result
