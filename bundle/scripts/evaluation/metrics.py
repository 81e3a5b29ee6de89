# SPDX-License-Identifier: Apache-2.0
"""Image quality against a known truth.

Every figure uses one data range, ``max - min`` of the true volume (the convention of the paper's PSNR reference):

* ``psnr``, ``ssim``: over the whole volume; SSIM in 7 x 7 x 7 uniform windows, scikit-image's defaults;
* ``psnr_foreground``: over the voxels of tissue, Otsu's threshold of the truth with its holes filled;
* ``psnr_slices``, ``ssim_slices``, ``lpips``: means over the slices of both orientations that contain the thick axis,
  without those that hold no tissue; each slice is scored as a picture of its own with the volume's data range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

if TYPE_CHECKING:  # only LPIPS needs these packages
    from .lpips import SliceLPIPS

__all__ = ["DEFINITIONS", "foreground", "psnr", "score_volume", "through_plane_slices"]

DEFINITIONS = {
    "psnr": "10 log10(range^2 / MSE) over the volume, range = max - min of the truth, dB",
    "ssim": "structural similarity over the volume, 7^3 uniform windows, same range (scikit-image's defaults)",
    "psnr_foreground": "PSNR over voxels above Otsu's threshold of the truth, holes filled, same range, dB",
    "psnr_slices": "mean PSNR of the slices of both through-plane orientations, same range, dB",
    "ssim_slices": "mean SSIM of the same slices, 7^2 uniform windows, same range",
    "lpips": "mean LPIPS of the same slices (AlexNet, v0.1; lower is better), three grey copies, same range to [-1, 1]",
}


def foreground(truth: np.ndarray) -> np.ndarray:
    """Boolean mask of the tissue in a volume of any shape."""
    return binary_fill_holes(truth > threshold_otsu(truth))


def through_plane_slices(tissue: np.ndarray, thick_axis: int) -> list[tuple[int, int]]:
    """``(axis, index)`` of the slices that contain the thick axis and hold tissue, both orientations.

    Args:
        tissue: ``(I, J, K)`` boolean.
        thick_axis: voxel axis along which the slices were thick.
    """
    places = []
    for axis in (a for a in range(3) if a != thick_axis):
        holds = tissue.any(axis=tuple(a for a in range(3) if a != axis))
        places += [(axis, int(i)) for i in np.flatnonzero(holds)]
    return places


def psnr(result: np.ndarray, truth: np.ndarray, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite if the volumes are equal."""
    error = float(np.mean(np.square(np.asarray(result, np.float64) - np.asarray(truth, np.float64))))
    return float("inf") if error == 0 else 10 * np.log10(data_range**2 / error)


def score_volume(
    result: np.ndarray, truth: np.ndarray, thick_axis: int, lpips: SliceLPIPS | None = None
) -> dict[str, float | None]:
    """All figures of :data:`DEFINITIONS`.

    Args:
        result: ``(I, J, K)``.
        truth: same shape and grid.
        thick_axis: voxel axis along which the slices were thick.
        lpips: computes ``lpips``, which is ``None`` without it and if the slices are too small.

    Raises:
        ValueError: if the shapes differ, or the truth is constant.
    """
    if result.shape != truth.shape:
        raise ValueError(f"result and truth must have one shape, got {result.shape} and {truth.shape}; check the grid")
    data_range = float(truth.max()) - float(truth.min())
    if data_range <= 0:
        raise ValueError("truth must vary, got a constant volume; leave the case out")
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    tissue = foreground(truth)
    slice_psnr, slice_ssim = [], []
    for axis, i in through_plane_slices(tissue, thick_axis):
        r, t = result.take(i, axis), truth.take(i, axis)
        slice_psnr.append(psnr(r, t, data_range))
        slice_ssim.append(structural_similarity(t, r, data_range=data_range))
    perceptual = lpips is not None and not lpips.refusal(truth.shape, thick_axis)
    return {
        "psnr": psnr(result, truth, data_range),
        "ssim": float(structural_similarity(truth, result, data_range=data_range)),
        "psnr_foreground": psnr(result[tissue], truth[tissue], data_range),
        "psnr_slices": float(np.mean(slice_psnr)),
        "ssim_slices": float(np.mean(slice_ssim)),
        "lpips": lpips(result, truth, thick_axis, tissue) if lpips is not None and perceptual else None,
    }
