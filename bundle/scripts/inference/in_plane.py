# SPDX-License-Identifier: Apache-2.0
"""Training pairs from one thick-slice scan: its slices are the truth, and are made thick along an in-plane axis.

The patches are made with the K, slice profile and slice thickness of the scan, at the pixel spacing that its thin
slices will have. Adaptation learns from the pairs, and the self-check judges by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from monai.data import MetaTensor

from ..transforms.degrade import RandDegrade
from ..transforms.orient import slice_grid, thickness_to_spacing, thin_pixel_spacing_mm, working_spacing_mm
from ..transforms.patch import RandPlanePatch

__all__ = ["Pairs", "in_plane_pairs"]


class Pairs(NamedTuple):
    """Pairs of one scan; the first four are what SRNet and its losses take.

    Attributes:
        image: ``(B, 1, rows, slices)`` thick slices.
        label: ``(B, 1, rows, columns)`` truth.
        positions: ``(columns,)``, see :attr:`scripts.geometry.SliceGrid.positions`.
        condition: ``(B, 4)``, see :meth:`scripts.degradation.SliceProfileOperator.condition`.
    """

    image: torch.Tensor
    label: torch.Tensor
    positions: torch.Tensor
    condition: torch.Tensor


def in_plane_pairs(
    scan: MetaTensor,
    size: tuple[int, int],
    margin: int,
    profile: str,
    slice_thickness_mm: float | None,
    seed: int,
) -> Callable[..., Pairs]:
    """Make a source of pairs.

    Args:
        scan: ``(1, H1, H2, n_slices)`` in the unit range, oriented, with K in its meta data.
        size: ``(rows, columns)`` of the truth.
        margin: columns on each side that serve to make thick slices and are not part of the truth.
        profile: slice profile of the scan.
        slice_thickness_mm: overrides the header's thickness.
        seed: seed of the positions of the patches.

    Returns:
        Function ``draw(count, slices)`` that returns ``count`` pairs of the slices with these indices, on the device of
        the scan.
    """
    volume = scan.as_tensor()
    spacing = working_spacing_mm(scan)
    scale_factor = slice_grid(scan).scale_factor
    thin_mm = float(spacing[2]) / scale_factor
    thickness = thickness_to_spacing(scan, slice_thickness_mm)
    degrade = RandDegrade({profile: 1.0}, (thickness, thickness), margin)
    patch = RandPlanePatch(
        "in_plane",
        size=(size[0], size[1] + 2 * margin),
        # the spacing of the thin slices, or that of the scan's pixels if it is larger
        column_spacing_mm=(thin_mm, thin_pixel_spacing_mm(float(spacing[2]), scale_factor, float(spacing[:2].max()))),
    )
    patch.set_random_state(seed)

    def pair(part: torch.Tensor) -> Pairs:
        image, (rows_mm, columns_mm) = patch(part, spacing.tolist())
        return Pairs(*degrade(image, scale_factor, float(rows_mm / columns_mm)))

    def draw(count: int, slices: torch.Tensor) -> Pairs:
        part = volume[..., slices.to(volume.device)]
        image, label, positions, condition = (
            torch.stack(x) for x in zip(*(pair(part) for _ in range(count)), strict=True)
        )
        return Pairs(image, label, positions[0].to(volume.device), condition.to(volume.device))

    return draw
