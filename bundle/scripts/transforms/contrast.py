# SPDX-License-Identifier: Apache-2.0
"""Randomise the contrast of CT: tissues get random intensities, and rows are blurred as in MR."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

__all__ = ["RandRowBlurd", "RandToneCurved"]


class RandToneCurved(RandomizableTransform, MapTransform):
    """Replace intensities by a random continuous tone curve that leaves air (-1) where it is.

    The curve is linear between ``points`` random values at sorted random positions in (-1, 1]. It need not be monotone,
    because in MR any tissue may be brighter than any other.

    Args:
        keys: ``(1, ...)`` images in unit range.
        prob: probability that an image is changed.
        points: range of the number of random values, both ends included.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, prob: float, points: Sequence[int], allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.points = (int(points[0]), int(points[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply a random curve to every key."""
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        count = int(self.R.randint(self.points[0], self.points[1] + 1))
        places = np.concatenate([[-1.0], np.sort(self.R.uniform(-1, 1, count)), [1.0]])
        values = np.concatenate([[-1.0], self.R.uniform(-1, 1, count + 1)])
        for key in self.key_iterator(result):
            image: torch.Tensor = result[key]
            curved = np.interp(image.numpy(), places, values).astype(np.float32)
            result[key] = torch.from_numpy(curved)
        return result


class RandRowBlurd(RandomizableTransform, MapTransform):
    """Blur along the axis of the rows only: an MR slice is often less sharp than its pixels along the phase direction.

    Args:
        keys: ``(1, rows, columns)`` images.
        prob: probability that an image is changed.
        sigma: range of the standard deviation of the Gaussian, in pixels.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, prob: float, sigma: Sequence[float], allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.sigma = (float(sigma[0]), float(sigma[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Blur every key."""
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        sigma = max(float(self.R.uniform(*self.sigma)), 1e-3)
        reach = int(np.ceil(3 * sigma))
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        weights = (weights / weights.sum())[None, None, :, None]
        for key in self.key_iterator(result):
            padded = torch.nn.functional.pad(result[key][None], (0, 0, reach, reach), mode="replicate")
            result[key] = torch.nn.functional.conv2d(padded, weights)[0]
        return result
