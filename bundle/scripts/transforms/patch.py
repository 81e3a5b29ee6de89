# SPDX-License-Identifier: Apache-2.0
"""Random 2D training patches from 3D volumes, at random physical scales.

The thick axis of a volume is its last one (axis 2). Patches may lie in these planes:

* ``any``: every plane of a (near-)isotropic volume, such as CT;
* ``in_plane``: the plane of the thick slices, in which a thick-slice MR scan *has* high resolution;
* ``through_plane``: planes that contain the thick axis, as the last axis of the patch. These are real LR inputs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, Transform
from torch.nn import functional as F

from ..geometry import SliceGrid

__all__ = ["PLANES", "Place", "RandPlanePatch", "RandPlanePatchd", "cut", "resample"]

PLANES: dict[str, tuple[tuple[int, int], ...]] = {
    "any": ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)),
    "in_plane": ((0, 1), (1, 0)),
    "through_plane": ((0, 2), (1, 2)),
}


@dataclass(frozen=True)
class Place:
    """Position of a patch in a volume, and size of its pixels.

    Attributes:
        plane: volume axes of the patch's rows and columns.
        slice_index: index of the slice along the third axis.
        starts: first voxel along rows and columns.
        lengths: voxels along rows and columns.
        zooms: voxels per pixel of the patch.
        size: number of pixels of the patch.
    """

    plane: tuple[int, int]
    slice_index: int
    starts: tuple[int, int]
    lengths: tuple[int, int]
    zooms: tuple[float, float]
    size: tuple[int, int]

    @property
    def slice_axis(self) -> int:
        """Volume axis across the patch."""
        return 3 - sum(self.plane)


class RandPlanePatch(Randomizable, Transform):
    """Crop a random patch from a random plane, resampled (antialiased) to a random pixel spacing.

    Args:
        planes: ``any``, ``in_plane`` or ``through_plane``.
        size: ``(rows, columns)`` of the patch in pixels; columns run along the (to be) degraded axis.
        row_spacing_mm: range of the pixel spacing along the rows' axis, drawn log-uniformly; ``None`` keeps the
            volume's own.
        column_spacing_mm: the same along the columns' axis. A spacing finer than the volume's own would make a blurred
            target, so the volume's own spacing is used instead.
        min_std: a patch is drawn again while its standard deviation (unit range) is below this, to avoid air.
        attempts: largest number of draws.

    Attributes:
        place: position of the last patch.

    Raises:
        ValueError: for an unknown ``planes``.
    """

    place: Place

    def __init__(
        self,
        planes: str,
        size: Sequence[int],
        row_spacing_mm: Sequence[float] | None = None,
        column_spacing_mm: Sequence[float] | None = None,
        min_std: float = 0.05,
        attempts: int = 8,
    ) -> None:
        if planes not in PLANES:
            raise ValueError(f"planes must be one of {sorted(PLANES)}, got {planes!r}; correct the patch transform")
        self.planes = planes
        self.size = (int(size[0]), int(size[1]))
        self.row_spacing_mm = row_spacing_mm
        self.column_spacing_mm = column_spacing_mm
        self.min_std = min_std
        self.attempts = attempts

    def __call__(
        self, volume: torch.Tensor, spacing_mm: Sequence[float], columns: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a patch.

        Args:
            volume: ``(1, I, J, K)``, unit range.
            spacing_mm: ``(3,)``.
            columns: number of columns of this patch; ``None`` takes that of ``size``.

        Returns:
            ``(1, rows, columns)`` float32, and ``(2,)`` its pixel spacing in mm, rows first.

        Raises:
            ValueError: if no allowed plane is fine enough for the column spacing.
        """
        planes = self._usable_planes(spacing_mm)
        size = (self.size[0], self.size[1] if columns is None else columns)
        for _ in range(max(1, self.attempts)):
            self.place = self._draw(volume.shape[1:], spacing_mm, planes[self.R.randint(len(planes))], size)
            patch = cut(volume, self.place)
            if float(patch.std()) >= self.min_std:
                break
        pixels_mm = [zoom * spacing_mm[axis] for zoom, axis in zip(self.place.zooms, self.place.plane, strict=True)]
        return patch, torch.tensor(pixels_mm, dtype=torch.float32)

    def _usable_planes(self, spacing_mm: Sequence[float]) -> list[tuple[int, int]]:
        limit = np.inf if self.column_spacing_mm is None else self.column_spacing_mm[1]
        usable = [plane for plane in PLANES[self.planes] if spacing_mm[plane[1]] <= limit]
        if self.planes == "any":  # the plane must be high-resolution in both directions to serve as truth
            usable = [plane for plane in usable if spacing_mm[plane[0]] <= limit]
        if not usable:
            shown = " x ".join(f"{s:.3g}" for s in spacing_mm)
            raise ValueError(
                f"a volume must have a plane with spacing <= {limit:g} mm to serve as truth, got {shown} mm; "
                "leave it out or raise the upper end of the spacing range"
            )
        return usable

    def _draw(
        self, shape: Sequence[int], spacing_mm: Sequence[float], plane: tuple[int, int], size: tuple[int, int]
    ) -> Place:
        slice_index = self.R.randint(shape[3 - sum(plane)])
        zooms = (
            self._zoom(self.row_spacing_mm, spacing_mm[plane[0]], least=0.0),
            self._zoom(self.column_spacing_mm, spacing_mm[plane[1]], least=1.0),
        )
        lengths = [min(max(round(size[a] * zooms[a]), 1), shape[plane[a]]) for a in (0, 1)]
        starts = [self.R.randint(shape[plane[a]] - lengths[a] + 1) for a in (0, 1)]
        return Place(plane, slice_index, (starts[0], starts[1]), (lengths[0], lengths[1]), zooms, size)

    def _zoom(self, spacing_range_mm: Sequence[float] | None, own_mm: float, least: float) -> float:
        """Voxels of the volume per pixel of the patch."""
        if spacing_range_mm is None:
            return 1.0
        low, high = np.log(spacing_range_mm[0]), np.log(spacing_range_mm[1])
        return max(least, float(np.exp(self.R.uniform(low, high))) / own_mm)


def cut(volume: torch.Tensor, place: Place) -> torch.Tensor:
    """Cut a patch from ``(1, I, J, K)`` at a place: ``(1, rows, columns)`` float32."""
    image = volume[0].select(place.slice_axis, place.slice_index)
    if place.plane[0] > place.plane[1]:
        image = image.T
    for axis in (0, 1):
        image = image.narrow(axis, place.starts[axis], place.lengths[axis])
    # fewer pixels than the size if the volume is too small
    pixels = [min(place.size[a], max(1, round(place.lengths[a] / place.zooms[a]))) for a in (0, 1)]
    return resample(image[None].float(), pixels, place.size)


def resample(image: torch.Tensor, pixels: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Antialiased cubic resampling of ``(n, H, W)`` to ``pixels``, mirrored out to ``size`` if that is larger."""
    if list(image.shape[1:]) != list(pixels):
        image = F.interpolate(image[None], size=list(pixels), mode="bicubic", antialias=True, align_corners=False)[0]
    while list(image.shape[1:]) != list(size):
        missing = [size[a] - image.shape[1 + a] for a in (0, 1)]
        step = [min(missing[a], max(image.shape[1 + a] - 1, 0)) for a in (0, 1)]
        if any(m and not s for m, s in zip(missing, step, strict=True)):
            image = F.pad(image[None], (0, missing[1], 0, missing[0]), mode="replicate")[0]
        else:
            image = F.pad(image[None], (0, step[1], 0, step[0]), mode="reflect")[0]
    return image.contiguous()


class RandPlanePatchd(Randomizable, MapTransform):
    """Dictionary form of :class:`RandPlanePatch`.

    The spacing of the volume is read from ``data[spacing_key]``, and replaced by that of the patch.

    Args:
        keys: volumes.
        spacing_key: see above.
        of_window: whether ``size`` counts thin slices although the volume holds thick slices. The patch then has the
            thick slices that cover the window at the K of ``data["scale_factor"]``.
        allow_missing_keys: as in MONAI.
        patch: arguments of :class:`RandPlanePatch`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_key: str = "spacing_mm",
        of_window: bool = False,
        allow_missing_keys: bool = False,
        **patch: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_key = spacing_key
        self.of_window = of_window
        self.patch = RandPlanePatch(**patch)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandPlanePatchd:
        """Seed the wrapped transform."""
        super().set_random_state(seed, state)
        self.patch.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each key by a patch of it."""
        result = dict(data)
        columns = None
        if self.of_window:
            columns = SliceGrid.covering(self.patch.size[1], float(result["scale_factor"])).n_slices
        for key in self.key_iterator(result):
            result[key], result[self.spacing_key] = self.patch(result[key], data[self.spacing_key], columns)
        return result
