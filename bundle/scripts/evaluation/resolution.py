# SPDX-License-Identifier: Apache-2.0
"""Measure how sharp a result is along the thick axis, and whether that sharpness is true detail.

Two figures need no truth (``sharpness_ratio``, ``edge_width_mm``), but invented detail and noise raise them too. The
Fourier resolution counts only detail that agrees with the truth. The energy ratio counts all detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "THROUGH_PLANE_DEFINITIONS",
    "edge_width_mm",
    "fourier_resolution_mm",
    "high_frequency_ratio_db",
    "score_through_plane",
    "sharpness_ratio",
]

FEWEST_VOXELS = 8  # the fewest voxels of a line whose spectrum is meaningful

THROUGH_PLANE_DEFINITIONS = {
    "sharpness_ratio": "mean squared gradient per mm along the thick axis over the mean of those in-plane",
    "edge_width_mm": "height over steepest slope of the 0.5 % steepest edges along the thick axis, median; at best one "
    "voxel; of a blurred step 1.06 FWHM of the blur",
    "edge_width_in_plane_mm": "the same along the in-plane axes, mean of both",
    "fourier_resolution_mm": "1 / first frequency along the thick axis at which the correlation with the truth falls "
    "under 0.5; at best two voxels",
    "high_frequency_ratio_db": "energy beyond the thick slices' Nyquist frequency along the thick axis over the "
    "truth's, dB; 0 is as much as the truth",
}


def score_through_plane(
    result: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] | np.ndarray,
    thick_axis: int,
    scale_factor: float,
) -> dict[str, float]:
    """All figures of :data:`THROUGH_PLANE_DEFINITIONS`; the truth's own are ``score_through_plane(truth, truth, ...)``.

    Args:
        result: ``(I, J, K)``.
        truth: same shape and grid.
        spacing_mm: ``(3,)``.
        thick_axis: voxel axis along which the slices were thick.
        scale_factor: K, slice spacing over thin spacing.
    """
    in_plane = [axis for axis in range(3) if axis != thick_axis]
    return {
        "sharpness_ratio": sharpness_ratio(result, spacing_mm, thick_axis),
        "edge_width_mm": edge_width_mm(result, spacing_mm, thick_axis),
        "edge_width_in_plane_mm": float(np.mean([edge_width_mm(result, spacing_mm, axis) for axis in in_plane])),
        "fourier_resolution_mm": fourier_resolution_mm(result, truth, spacing_mm, thick_axis),
        "high_frequency_ratio_db": high_frequency_ratio_db(result, truth, thick_axis, scale_factor),
    }


def sharpness_ratio(volume: np.ndarray, spacing_mm: Sequence[float] | np.ndarray, thick_axis: int) -> float:
    """Mean squared gradient along the thick axis over the mean of those along the other two; gradients per mm.

    Args:
        volume: ``(I, J, K)``.
        spacing_mm: ``(3,)``.
        thick_axis: voxel axis along which the slices are, or were, thick.

    Returns:
        1 if the volume is as sharp across the slices as within them; NaN if it is constant in-plane.
    """
    energy = [float(np.mean(np.square(np.diff(volume, axis=a) / spacing_mm[a]))) for a in range(3)]
    in_plane = float(np.mean([energy[a] for a in range(3) if a != thick_axis]))
    return energy[thick_axis] / in_plane if in_plane > 0 else float("nan")


def edge_width_mm(
    volume: np.ndarray,
    spacing_mm: Sequence[float] | np.ndarray,
    axis: int,
    steepest: float = 0.005,
    foot: float = 0.05,
) -> float:
    """Width of the strongest edges along one axis: height over steepest slope, median over the edges.

    An edge is where the difference between neighbours along the axis is among the fraction ``steepest`` of the
    largest, and larger than those before and after it. It reaches as far as the differences keep their sign and stay
    above ``foot`` of the largest; its height is their sum. Of a step blurred by a Gaussian this is
    ``sigma sqrt(2 pi)``, 2.51 sigma or 1.06 FWHM, close to the distance of the 10 % and 90 % points (2.56 sigma).

    A staircase of repeated slices counts as sharp: interpolate thick slices first.

    Args:
        volume: ``(I, J, K)``.
        spacing_mm: ``(3,)``.
        axis: along which the edges are crossed.
        steepest: fraction of all differences.
        foot: fraction of an edge's largest difference.

    Returns:
        Width in mm, at least one spacing; NaN if there is no edge.
    """
    lines = np.moveaxis(np.asarray(volume, np.float32), axis, -1)
    step = np.diff(lines.reshape(-1, lines.shape[-1]), axis=-1)
    size = np.abs(step)
    count = max(1, round(steepest * size.size))
    threshold = np.partition(size, -count, axis=None)[-count]
    # at the border half of an edge may be missing
    inner = size[:, 1:-1]
    row, place = np.nonzero((inner >= max(threshold, 1e-30)) & (inner >= size[:, :-2]) & (inner >= size[:, 2:]))
    if not len(row):
        return float("nan")
    place += 1
    top, sign = size[row, place], np.sign(step[row, place])
    height = top.astype(np.float64)
    for direction in (-1, 1):
        there, alive = place.copy(), np.ones(len(row), bool)
        while alive.any():
            there += direction
            alive &= (there >= 0) & (there < step.shape[1])
            value = sign * step[row, there.clip(0, step.shape[1] - 1)]
            alive &= value > foot * top
            height += np.where(alive, value, 0)
    return float(np.median(height / top) * spacing_mm[axis])


def fourier_resolution_mm(
    result: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] | np.ndarray,
    axis: int,
    threshold: float = 0.5,
) -> float:
    """Finest period along one axis at which the result still agrees with the truth.

    The Fourier ring correlation (Saxton and Baumeister, 1982) with the rings replaced by the frequencies of one axis:
    ``c(f) = Re sum R T* / sqrt(sum |R|^2 sum |T|^2)``, sums over all lines along the axis, each without the volume's
    mean and in a Hann window. The first ``f`` with ``c(f) < threshold`` is interpolated between the bins; the two
    lowest bins, into which the window smears the mean of a line, are not looked at.

    Args:
        result: ``(I, J, K)``.
        truth: same shape and grid.
        spacing_mm: ``(3,)``.
        axis: 0, 1 or 2.
        threshold: 0.5 is the customary one between noisy and true.

    Returns:
        ``1 / f`` in mm; twice the spacing, the best that a grid can hold, if the correlation never falls below the
        threshold; NaN for fewer than 8 voxels along the axis.
    """
    if result.shape[axis] < FEWEST_VOXELS:
        return float("nan")
    frequency, power_result, power_truth, cross = _spectra(result, truth, axis)
    norm = np.sqrt(power_result * power_truth)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    below = np.flatnonzero(correlation[2:] < threshold) + 2
    if not len(below):
        return 2 * float(spacing_mm[axis])
    first = int(below[0])
    where = frequency[first]
    if first > 2:
        drop = (correlation[first - 1] - threshold) / (correlation[first - 1] - correlation[first])
        where = frequency[first - 1] + drop * (frequency[first] - frequency[first - 1])
    return float(spacing_mm[axis]) / float(where)


def high_frequency_ratio_db(volume: np.ndarray, truth: np.ndarray, thick_axis: int, scale_factor: float) -> float:
    """Energy at frequencies that thick slices cannot sample, over that of the truth, in dB.

    Args:
        volume: ``(I, J, K)``.
        truth: same shape and grid.
        thick_axis: voxel axis along which the slices were thick.
        scale_factor: K; the band is everything above ``1 / (2 K)`` cycles per thin voxel along the thick axis.

    Returns:
        0: as much as the truth; negative: smoother; minus infinity for a volume that has none; NaN for fewer
        than 8 voxels along the axis.
    """
    if volume.shape[thick_axis] < FEWEST_VOXELS:
        return float("nan")
    frequency, power, power_truth, _ = _spectra(volume, truth, thick_axis)
    band = frequency > 1 / (2 * scale_factor)
    ratio = power[band].sum() / power_truth[band].sum() if power_truth[band].sum() > 0 else float("nan")
    return float(10 * np.log10(ratio)) if ratio != 0 else float("-inf")


def _spectra(a: np.ndarray, b: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies in cycles per voxel, and the sums over all lines along ``axis`` of |A|^2, |B|^2 and Re A B*.

    Lines are taken without the volume's mean and in a Hann window, one plane of them at a time.
    """
    if a.shape != b.shape:
        raise ValueError(f"the volumes must have one shape, got {a.shape} and {b.shape}; check the grid")
    length = a.shape[axis]
    window = np.hanning(length)
    means = float(np.mean(a, dtype=np.float64)), float(np.mean(b, dtype=np.float64))
    sums = np.zeros((3, length // 2 + 1))
    for planes in zip(np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1), strict=True):
        A, B = (np.fft.rfft((plane - mean) * window) for plane, mean in zip(planes, means, strict=True))
        sums += [np.square(np.abs(A)).sum(0), np.square(np.abs(B)).sum(0), (A * B.conj()).real.sum(0)]
    return np.fft.rfftfreq(length), sums[0], sums[1], sums[2]
