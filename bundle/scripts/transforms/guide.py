# SPDX-License-Identifier: Apache-2.0
"""Add a guide to every training patch: the same region of the same CT, as if scanned and registered on another day."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from torch.nn import functional as F

from .patch import RandPlanePatchd, cut

__all__ = ["RandGuidedPatchd", "move_patch"]


def move_patch(
    patch: torch.Tensor, spacing_mm: Sequence[float], shift_mm: Sequence[float], angle_degrees: float
) -> torch.Tensor:
    """Move a patch rigidly: ``moved(x) = patch(R x + shift)``, with x in mm from the centre of the patch.

    Args:
        patch: ``(1, rows, columns)``.
        spacing_mm: spacing of its rows and columns.
        shift_mm: shift along rows and columns.
        angle_degrees: angle of R, from the rows' axis to the columns' axis.

    Returns:
        ``(2, rows, columns)``: the moved patch by cubic interpolation, and a mask that is 1 where it is known. Both are
        0 elsewhere.
    """
    sizes = torch.tensor(patch.shape[1:], dtype=torch.float64)
    mm = torch.tensor([float(s) for s in spacing_mm], dtype=torch.float64)
    rows, columns = (torch.arange(int(n), dtype=torch.float64) - (float(n) - 1) / 2 for n in sizes)
    x = torch.stack(torch.meshgrid(rows * mm[0], columns * mm[1], indexing="ij"), dim=-1)
    c, s = np.cos(np.deg2rad(angle_degrees)), np.sin(np.deg2rad(angle_degrees))
    turned = torch.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], dim=-1)
    pixels = (turned + torch.tensor([float(s) for s in shift_mm], dtype=torch.float64)) / mm + (sizes - 1) / 2
    known = ((pixels >= -1e-6) & (pixels <= sizes - 1 + 1e-6)).all(dim=-1).float()[None]
    places = (2 * pixels + 1) / sizes - 1  # -1 and 1 are the outer edges of the first and last pixel
    moved = F.grid_sample(
        patch[None], places.flip(-1)[None].float(), mode="bicubic", padding_mode="border", align_corners=False
    )[0]
    return torch.cat([moved * known, known])


class RandGuidedPatchd(RandPlanePatchd):
    """:class:`scripts.transforms.patch.RandPlanePatchd` that adds ``data["guide"]``, ``(2, rows, columns)``.

    The guide is the original patch, moved at random by a shift in any direction of space (across the patch in whole
    slices) and a rotation within the plane of the patch. Some patches get a wrong guide, which is moved so far that it
    no longer matches, and mirrored half of the time. So the network learns to work without a guide.

    Args:
        keys: one key, the CT.
        shift_mm: range of the length of the shift.
        angle_degrees: largest rotation.
        wrong: share of the patches whose guide is wrong.
        wrong_shift_mm: range of the length of the shift of a wrong guide.
        noise_std: standard deviation (unit range) of noise added to the guide. The target contains
            the noise of the CT, but an MR does not. So the network learns not to copy detail of single pixels.
        patch: arguments of :class:`scripts.transforms.patch.RandPlanePatchd`.

    Raises:
        ValueError: if the share is not from 0 to 1, or there are several keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        shift_mm: Sequence[float],
        angle_degrees: float,
        wrong: float,
        wrong_shift_mm: Sequence[float],
        noise_std: float = 0.0,
        **patch: Any,
    ) -> None:
        super().__init__(keys, **patch)
        if len(self.keys) != 1 or not 0 <= wrong <= 1:
            raise ValueError(f"guide_wrong must be a share of the patches of one key, got {wrong}; correct the id")
        self.shift_mm = shift_mm
        self.angle_degrees = angle_degrees
        self.wrong = wrong
        self.wrong_shift_mm = wrong_shift_mm
        self.noise_std = noise_std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the volume by a patch, and add the guide."""
        (key,) = self.keys
        result = super().__call__(data)
        random = self.patch.R  # continues this stream, because the transform's own would repeat the draws of the patch
        wrong = random.uniform() < self.wrong
        direction = random.normal(size=3)
        low, high = self.wrong_shift_mm if wrong else self.shift_mm
        length_mm = random.uniform(low, high)
        shift_mm = length_mm * direction / np.linalg.norm(direction)
        angle = random.uniform(-self.angle_degrees, self.angle_degrees)
        mirrored = [axis for axis in (1, 2) if random.uniform() < 0.5] if wrong else []
        place = self.patch.place
        across = round(float(shift_mm[2] / data[self.spacing_key][place.slice_axis]))
        index = place.slice_index + across
        if not 0 <= index < data[key].shape[1 + place.slice_axis]:
            result["guide"] = torch.zeros(2, *place.size)
            return result
        patch = cut(data[key], replace(place, slice_index=index)).flip(mirrored)
        patch = patch + self.noise_std * torch.from_numpy(random.standard_normal(patch.shape).astype(np.float32))
        result["guide"] = move_patch(patch, result[self.spacing_key].tolist(), shift_mm[:2].tolist(), angle)
        return result
