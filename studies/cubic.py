# SPDX-License-Identifier: Apache-2.0
"""The baselines of every result: cubic interpolation, alone and with the data consistency of the bundle."""

from __future__ import annotations

import numpy as np
import torch
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.intensity import TISSUE_LEVEL, mr_intensity_range
from scripts.networks.interpolation import interpolate_cubic
from scripts.transforms.consistency import noise_to_signal

__all__ = ["cubic_results", "gain_in_tissue_db"]

PERCENTILES = (0.5, 99.5)  # of the unit range, as in inference.json


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
    eps = noise_to_signal(mr_intensity_range(acquired, *PERCENTILES).to_unit(acquired)[None])
    consistent = SliceProfileOperator(grid, profile).enforce(cubic.clone(), acquired, eps)
    return cubic.numpy(), consistent.numpy()


def gain_in_tissue_db(result: np.ndarray, reference: np.ndarray, truth: np.ndarray, thick: np.ndarray) -> float:
    """True gain of a result over a reference where the self-check predicts it, in the tissue.

    Args:
        result: any shape, scanner units.
        reference: what it is held against, such as cubic interpolation; same shape.
        truth: same shape.
        thick: the slices, whose range of intensities tells tissue from air.
    """
    scanned, thin = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (thick, truth))
    tissue = (mr_intensity_range(scanned, *PERCENTILES).to_unit(thin) > TISSUE_LEVEL).numpy()
    ours, theirs = (np.mean(np.square(np.float64(x) - truth)[tissue]) for x in (result, reference))
    return float(10 * np.log10(theirs / ours))
