# SPDX-License-Identifier: Apache-2.0
"""Put the thick axis last before inference; restore axis order and dtype on the thin grid after it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ..geometry import Orientation, SliceGrid, find_thick_axis, voxel_spacing_mm
from ..reasons import CaseError, Reason

__all__ = [
    "OrientThickAxisLast",
    "OrientThickAxisLastd",
    "PlaceOnGrid",
    "PlaceOnGridd",
    "image_axes",
    "padding_of",
    "slice_grid",
    "thickness_to_spacing",
    "thin_pixel_spacing_mm",
    "working_spacing_mm",
]


def working_spacing_mm(image: MetaTensor) -> np.ndarray:
    """``(3,)`` voxel spacing of a volume that :class:`OrientThickAxisLast` has oriented; slice spacing last."""
    return np.asarray(image.meta["working_spacing_mm"], dtype=np.float64).reshape(-1)


def thickness_to_spacing(image: MetaTensor, slice_thickness_mm: float | None = None) -> float:
    """Slice thickness over slice spacing of an oriented scan.

    Args:
        image: oriented scan; its meta data holds the spacing and, if known, the thickness.
        slice_thickness_mm: overrides the header. With ``None``, the header counts, or else the slice spacing.
    """
    slice_spacing_mm = float(working_spacing_mm(image)[2])
    thickness_mm = float(image.meta["slice_thickness_mm"]) if slice_thickness_mm is None else float(slice_thickness_mm)
    return round(thickness_mm / slice_spacing_mm, 4) if np.isfinite(thickness_mm) else 1.0


def slice_grid(image: MetaTensor) -> SliceGrid:
    """Thick and thin slices of an oriented scan whose K :class:`scripts.transforms.grid.ChooseGridd` has chosen."""
    return SliceGrid.over_slab(image.shape[-1], float(image.meta["scale_factor"]))


def thin_pixel_spacing_mm(slice_spacing_mm: float, scale_factor: float, pixel_spacing_mm: float) -> float:
    """Pixel spacing of in-plane training pairs: the thin slice spacing, or the scan's pixel spacing if larger."""
    return max(slice_spacing_mm / scale_factor, pixel_spacing_mm)


def image_axes(image: MetaTensor) -> tuple[int, ...]:
    """Working axes normal to the images, all of which contain the thick axis, into which a volume is split.

    These are both in-plane axes. If a scan was made thick within its slices (``slice_axis``), it is only that axis.
    """
    if "slice_axis" not in image.meta:
        return (0, 1)
    affine = np.asarray(image.meta["original_affine"], dtype=np.float64).reshape(4, 4)
    thick_axis, slice_axis = (int(np.asarray(image.meta[key]).reshape(-1)[0]) for key in ("thick_axis", "slice_axis"))
    return (Orientation.of(affine, thick_axis).axes.index(slice_axis),)


def padding_of(image: MetaTensor) -> torch.Tensor | None:
    """``(*image.shape[1:])`` bool: true where the source says that a voxel was not measured; None if it is nowhere."""
    mask = image.meta.get("padding_mask")
    return None if mask is None else torch.as_tensor(mask).reshape(image.shape[1:]).bool()


class OrientThickAxisLast(Transform):
    """Bring a volume to the working axes of :class:`scripts.geometry.Orientation`.

    The affine in the meta data remains that of the *stored* axes, which :class:`PlaceOnGrid` needs.

    Args:
        thick_axis: ``auto``, 0, 1, 2, ``sagittal``, ``coronal`` or ``axial``. If the meta data of a volume state the
            axis along which it was made thick (``meta["thick_axis"]``), that axis is used.
        min_anisotropy: see :func:`scripts.geometry.find_thick_axis`.
        min_slices: scans with fewer slices are refused.
    """

    def __init__(self, thick_axis: str | int = "auto", min_anisotropy: float = 1.5, min_slices: int = 3) -> None:
        self.thick_axis = thick_axis
        self.min_anisotropy = min_anisotropy
        self.min_slices = min_slices

    def __call__(self, volume: MetaTensor) -> MetaTensor:
        """``(1, I, J, K)`` stored axes to ``(1, H1, H2, n_slices)``.

        Raises:
            CaseError: ``NOT_3D``, ``ISOTROPIC`` or ``TOO_SMALL``.
        """
        if volume.ndim != 4 or volume.shape[0] != 1:
            raise CaseError(
                Reason.NOT_3D, f"a scan must have shape (1, I, J, K), got {tuple(volume.shape)}; load one 3D volume"
            )
        affine = np.asarray(volume.meta["original_affine"], dtype=np.float64).reshape(4, 4)
        try:
            stated = volume.meta.get("thick_axis", self.thick_axis)
            thick_axis = find_thick_axis(affine, stated, self.min_anisotropy)
        except ValueError as error:
            raise CaseError(Reason.ISOTROPIC, str(error)) from error
        orientation = Orientation.of(affine, thick_axis)
        meta = dict(volume.meta)
        meta["thick_axis"] = thick_axis
        meta["working_spacing_mm"] = voxel_spacing_mm(affine)[list(orientation.axes)]
        result = orientation.apply(volume.as_tensor()).contiguous()
        if (padding := padding_of(volume)) is not None:
            meta["padding_mask"] = orientation.apply(padding[None])[0].contiguous()
        if result.shape[-1] < self.min_slices or min(result.shape[1:3]) < 8:
            raise CaseError(
                Reason.TOO_SMALL,
                f"a scan must have at least {self.min_slices} slices of at least 8 x 8 pixels, got "
                f"{result.shape[-1]} of {result.shape[1]} x {result.shape[2]}",
            )
        return MetaTensor(result, meta=meta)


class PlaceOnGrid(Transform):
    """Put a result into the stored axis order, with the affine of the thin grid and the dtype of the source.

    Args:
        output_dtype: ``"input"`` keeps the dtype of the source: values are rounded and clipped to its range, and
            clipped voxels are counted and logged. But if the range of the scan is less than ``min_levels`` steps,
            rounding would undo data consistency, and float32 is written. Any other name is used as it is.
        min_levels: the fewest steps for an integer dtype.
    """

    def __init__(self, output_dtype: str = "input", min_levels: int = 500) -> None:
        self.output_dtype = output_dtype
        self.min_levels = min_levels
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(self, pred: torch.Tensor, image: MetaTensor, keep_float: bool = False) -> MetaTensor:
        """Place one volume.

        Args:
            pred: ``(1, H1, H2, n_thin)`` in working axes, scanner units; overwritten if values are rounded.
            image: the oriented source, scanner units; its meta data is read, not changed.
            keep_float: keep float32, for maps that are not MR intensities.

        Returns:
            ``(1, ...)`` in stored axis order. It has the padding of the source (0 in maps) where the nearest slice has
            it, and ``affine``, ``original_affine``, ``spatial_shape`` of the new grid.
        """
        affine = np.asarray(image.meta["original_affine"], dtype=np.float64).reshape(4, 4)
        thick_axis = int(image.meta["thick_axis"])
        voxels, meta = _plain(pred), dict(image.meta)
        if not keep_float:
            voxels, meta["clipped_voxels"] = self._cast(voxels, str(image.meta["stored_dtype"]), _plain(image))
        if (padding := padding_of(image)) is not None:
            nearest = torch.from_numpy(slice_grid(image).nearest_slices)
            outside = padding[..., nearest.to(padding.device)].to(voxels.device)
            voxels[0][outside] = 0 if keep_float else float(meta["padding_value"])
        placed = Orientation.of(affine, thick_axis).undo(voxels)
        new_affine = torch.from_numpy(slice_grid(image).thin_affine(affine, thick_axis))
        meta.update(affine=new_affine, original_affine=new_affine.clone(), spatial_shape=np.asarray(placed.shape[1:]))
        return MetaTensor(placed, meta=meta)

    def _cast(self, volume: torch.Tensor, stored_dtype: str, source: torch.Tensor) -> tuple[torch.Tensor, int]:
        name = stored_dtype if self.output_dtype == "input" else self.output_dtype
        few_levels = float(source.max() - source.min()) < self.min_levels
        if self.output_dtype == "input" and not getattr(torch, name).is_floating_point and few_levels:
            name = "float32"
        dtype = getattr(torch, name)
        if dtype.is_floating_point:
            return volume.to(dtype), 0
        info = torch.iinfo(dtype)
        result, clipped = torch.empty_like(volume, dtype=dtype), 0
        # plane by plane, because counting all at once would need eight more bytes per voxel
        for source_plane, plane in zip(volume[0], result[0], strict=True):
            clipped += int((source_plane < info.min - 0.5).sum() + (source_plane > info.max + 0.5).sum())
            plane.copy_(source_plane.round_().clamp_(info.min, info.max))
        if clipped:
            self.logger.warning("%d voxels were clipped to the range of %s", clipped, name)
        return result, clipped


def _plain(volume: torch.Tensor) -> torch.Tensor:
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume


class OrientThickAxisLastd(MapTransform):
    """Dictionary form of :class:`OrientThickAxisLast`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **orient: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orient = OrientThickAxisLast(**orient)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Orient every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.orient(result[key])
        return result


class PlaceOnGridd(MapTransform):
    """Dictionary form of :class:`PlaceOnGrid`, which also keeps hosts from undoing super-resolution.

    The scan's own affine goes to ``image.meta["acquired_affine"]``.

    MONAI Label resizes the result to ``image.meta["spatial_shape"]`` and writes ``image.meta["original_affine"]``;
    MONAI Deploy attaches the input's meta data. So the new grid is also written into the meta data of the
    **image**, in place.

    Args:
        keys: keys of the result.
        image_key: key of the oriented source in scanner units.
        map_keys: keys of further results on the same grid that keep float32, such as the disagreement map.
        allow_missing_keys: as in MONAI.
        place: arguments of :class:`PlaceOnGrid`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        map_keys: str | Sequence[str] = (),
        allow_missing_keys: bool = False,
        **place: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.map_keys = (map_keys,) if isinstance(map_keys, str) else tuple(map_keys)
        self.place = PlaceOnGrid(**place)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Place every key and the maps."""
        result = dict(data)
        image = result[self.image_key]
        for key in self.map_keys:
            if key in result:
                result[key] = self.place(result[key], image, keep_float=True)
        for key in self.key_iterator(result):
            result[key] = self.place(result[key], image)
            image.meta["acquired_affine"] = image.meta["original_affine"]
            for entry in ("affine", "original_affine", "spatial_shape"):
                image.meta[entry] = result[key].meta[entry]
        return result
