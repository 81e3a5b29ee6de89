# SPDX-License-Identifier: Apache-2.0
"""The ratio of brightness between two stacks as a smooth field: coils differ, and sensitivity falls with depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["fit_gain", "gain_field"]


def fit_gain(
    wanted: np.ndarray, own: np.ndarray, known: np.ndarray, degree: int = 2, least_share: float = 0.05,
    points: int = 100_000,
) -> np.ndarray:  # fmt: skip
    """Find the smooth field by which a volume is multiplied to get the brightness of another.

    A polynomial of the position is fitted to the logarithm of the ratio at random voxels of tissue, by least squares in
    three rounds. Each round leaves out voxels beyond two standard deviations.

    Args:
        wanted: ``(I, J, K)`` volume with the wanted brightness, >= 0 except for noise.
        own: volume to multiply, same shape and range.
        known: mask of the same shape, true where both volumes are known.
        degree: degree of the polynomial.
        least_share: voxels darker than this share of the 99th percentile in either volume do not count as tissue.
        points: largest number of voxels for the fit.

    Returns:
        Coefficients for :func:`gain_field`.

    Raises:
        ValueError: if the two share no tissue.
    """
    bright = [v > least_share * max(float(np.percentile(v[known], 99)), 1e-6) for v in (wanted, own)]
    tissue = np.flatnonzero(known & bright[0] & bright[1])
    powers = _powers(degree)
    if len(tissue) < 10 * len(powers):
        raise ValueError(f"stacks must share tissue, got {len(tissue)} voxels; take stacks that overlap")
    tissue = np.random.default_rng(0).permutation(tissue)[:points]
    places = [_places(n)[i] for n, i in zip(own.shape, np.unravel_index(tissue, own.shape), strict=True)]
    terms = np.stack([places[0] ** a * places[1] ** b * places[2] ** c for a, b, c in powers], axis=1)
    ratio = np.log(wanted.ravel()[tissue] / own.ravel()[tissue])
    kept = np.ones(len(ratio), bool)
    for _ in range(3):
        coefficients = np.linalg.lstsq(terms[kept], ratio[kept], rcond=None)[0]
        rest = ratio - terms @ coefficients
        kept = np.abs(rest) <= 2 * rest[kept].std() + 1e-6
    return np.asarray(coefficients)


def gain_field(coefficients: np.ndarray, shape: Sequence[int], degree: int = 2) -> np.ndarray:
    """The field on a grid over the same slab, thick or thin.

    Args:
        coefficients: see :func:`fit_gain`.
        shape: shape of the grid.
        degree: degree of the polynomial, as in the fit.

    Returns:
        The field, float32, > 0, with the shape of the grid.
    """
    x, y, z = (_places(n) for n in shape)
    total = np.zeros(tuple(shape))
    for value, (a, b, c) in zip(coefficients, _powers(degree), strict=True):
        total += value * (x**a)[:, None, None] * (y**b)[:, None] * z**c
    return np.exp(total).astype(np.float32)


def _places(n: int) -> np.ndarray:
    """Voxel centres between the edges -1 and 1 of the slab."""
    return (2 * np.arange(n) + 1) / n - 1


def _powers(degree: int) -> list[tuple[int, int, int]]:
    steps = range(degree + 1)
    return [(a, b, c) for a in steps for b in steps for c in steps if a + b + c <= degree]
