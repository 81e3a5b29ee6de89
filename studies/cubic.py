# SPDX-License-Identifier: Apache-2.0
"""The baselines of every result: cubic interpolation, alone and with the data consistency of the bundle."""

from __future__ import annotations

import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.intensity import mr_intensity_range
from scripts.networks.interpolation import interpolate_cubic
from scripts.transforms.consistency import noise_to_signal

__all__ = ["cubic_results"]


def cubic_results(thick: np.ndarray, scale_factor: float, profile: str) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate thick slices whose thickness equals their spacing.

    Args:
        thick: ``(H1, H2, n)``, scanner units.
        scale_factor: K.
        profile: slice profile.

    Returns:
        Cubic interpolation, and the same with regularised data consistency, ``(H1, H2, round(n K))`` each.
    """
    acquired = torch.from_numpy(np.ascontiguousarray(thick, dtype=np.float32))
    grid = SliceGrid.over_slab(acquired.shape[-1], scale_factor)
    cubic = interpolate_cubic(acquired, grid.positions_tensor())
    eps = noise_to_signal(mr_intensity_range(acquired, 0.5, 99.5).to_unit(acquired)[None])
    consistent = SliceProfileOperator(grid, profile).enforce(cubic.clone(), acquired, eps)
    return cubic.numpy(), consistent.numpy()
