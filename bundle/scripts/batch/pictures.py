# SPDX-License-Identifier: Apache-2.0
"""Small pictures of a scan before and after, at the same positions in three planes, for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from ..geometry import Orientation, SliceGrid, voxel_spacing_mm

__all__ = ["make_pictures"]

# name, axis of (Right, Anterior, Superior) normal to the plane, axes along rows and columns
PLANES = (("axial", 2, 1, 0), ("coronal", 1, 2, 0), ("sagittal", 0, 2, 1))


def make_pictures(
    image: MetaTensor,
    pred: MetaTensor,
    shown_map: MetaTensor | None,
    affine_before: np.ndarray,
    thick_axis: int,
    count: int,
    edge: int = 256,
    quality: int = 75,
) -> dict[str, Any]:
    """Cut planes along the voxel axes closest to axial, coronal and sagittal.

    Thick slices are not interpolated: the picture before shows the thick slice in which the thin one lies.

    Args:
        image: ``(1, H1, H2, n_slices)``, the scan in working axes, in scanner units.
        pred: ``(1, I, J, K)``, the result in stored axes and the same units.
        shown_map: on the grid of ``pred``: expected error or disagreement.
        affine_before: ``(4, 4)`` of the scan in stored axes, RAS mm.
        thick_axis: stored axis across the slices.
        count: number of pictures per plane.
        edge: the most pixels along a side; larger pictures are averaged down, smaller ones are not enlarged.
        quality: quality of WebP, from 0 to 100.

    Returns:
        ``planes``: for each ``name``, ``width_mm``, ``height_mm`` and ``slices``, each with ``number`` (from 1, of
        ``of``) and ``before``, ``after``, ``map`` as data URIs; ``window``: the grey values shown as black and as
        white, the same before and after; ``map_max``: the value shown as white in the map, ``None`` without one. The
        right of the patient is on the left of the picture; in sagittal pictures, anterior is on the left.
    """
    after = pred.as_tensor()[0].cpu().numpy()
    grid = SliceGrid.over_slab(image.shape[-1], float(pred.meta["scale_factor"]))
    nearest = grid.nearest_slices
    before = Orientation.of(affine_before, thick_axis).undo(image.as_tensor())[0].cpu().numpy()
    maps = None if shown_map is None else shown_map.as_tensor()[0].cpu().numpy()
    low, high = (float(v) for v in np.percentile(before, (0.5, 99.5)))
    top = None if maps is None else max(float(np.percentile(maps, 99.5)), 1e-6)
    affine = np.asarray(pred.meta["affine"], dtype=np.float64).reshape(4, 4)
    turn = nib.orientations.io_orientation(affine)
    spacing = voxel_spacing_mm(affine)
    planes = []
    for name, across, rows, columns in PLANES:
        axis = _axis(turn, across)
        length = after.shape[axis]
        slices = []
        for i in range(count):
            k = round((i + 1) * length / (count + 1) - 0.5)
            cut = _Cut(turn, axis, _axis(turn, rows), _axis(turn, columns), edge, quality)
            places = [int(nearest[k]) if axis == thick_axis else k, k]
            repeat = None if axis == thick_axis else (thick_axis, nearest)
            slices.append(
                {
                    "number": k + 1,
                    "of": length,
                    "before": cut.picture(before, places[0], (low, high), repeat),
                    "after": cut.picture(after, places[1], (low, high)),
                    "map": None if maps is None or top is None else cut.picture(maps, places[1], (0, top)),
                }
            )
        extent = [float(after.shape[a] * spacing[a]) for a in (_axis(turn, columns), _axis(turn, rows))]
        planes.append({"name": name, "width_mm": extent[0], "height_mm": extent[1], "slices": slices})
    return {"planes": planes, "window": [low, high], "map_max": top}


def _axis(turn: np.ndarray, world_axis: int) -> int:
    """Voxel axis closest to a world axis."""
    return int(np.flatnonzero(turn[:, 0] == world_axis)[0])


class _Cut:
    """One plane of a volume in stored axes, in radiological orientation."""

    def __init__(self, turn: np.ndarray, axis: int, rows: int, columns: int, edge: int, quality: int) -> None:
        self.axis, self.rows, self.columns = axis, rows, columns
        # superior or anterior is at the top, right or anterior at the left: rows and columns run against their axes
        self.flips = tuple(a for a in (rows, columns) if turn[a, 1] > 0)
        self.edge = edge
        self.quality = quality

    def picture(
        self,
        volume: np.ndarray,
        index: int,
        window: Sequence[float],
        repeat: tuple[int, np.ndarray] | None = None,
    ) -> str:
        """Data URI of slice ``index``; ``repeat`` is a stored axis and the indices along it that are shown in turn."""
        plane = np.expand_dims(np.take(volume, index, axis=self.axis), self.axis)
        if repeat is not None:
            plane = np.take(plane, repeat[1], axis=repeat[0])
        plane = np.flip(plane, axis=self.flips)
        plane = np.moveaxis(plane, (self.rows, self.columns), (0, 1))[..., 0].astype(np.float32)
        scaled = (plane - window[0]) / max(window[1] - window[0], 1e-6)
        grey = Image.fromarray(np.rint(255 * scaled.clip(0, 1)).astype(np.uint8))
        grey = grey.resize([min(self.edge, side) for side in grey.size], Image.Resampling.BOX)
        out = io.BytesIO()
        grey.save(out, "WEBP", quality=self.quality)
        return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
