# SPDX-License-Identifier: Apache-2.0
"""The slice-profile operator D, its adjoint, and data consistency.

Acquiring thick slices is a linear map along one axis: each thick slice is a weighted mean of the thin slices around
its centre. For a given profile, thickness and :class:`scripts.geometry.SliceGrid` this map is one banded matrix, and
only this module makes it. Training, evaluation and data consistency all use it; nothing else in the project downsamples
along the thick axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .geometry import SliceGrid

__all__ = ["SLICE_PROFILES", "SliceProfileOperator", "profile_sigma", "slice_profile_matrix"]

SLICE_PROFILES = ("gaussian", "box", "slr", "decimation")
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
GAUSSIAN_CUT_SIGMAS = 3.0
SLR_TRANSITION = 0.3  # width of each flank of the slice profile of a typical selective pulse, as a share of the FWHM


def profile_sigma(profile: str, fwhm: float) -> float:
    """Standard deviation of a slice profile, in the unit of ``fwhm``; 0 for ``decimation``."""
    if profile == "gaussian":
        return fwhm / FWHM_PER_SIGMA
    if profile == "box":
        return fwhm / math.sqrt(12)
    if profile == "slr":  # a box convolved with the box of its flank
        return fwhm * math.sqrt((1 + SLR_TRANSITION**2) / 12)
    return 0.0


@lru_cache(maxsize=64)
def slice_profile_matrix(profile: str, fwhm: float, grid: SliceGrid) -> np.ndarray:
    """The operator as a matrix.

    Row ``k`` holds the weights of thick slice ``k``, centred at thin coordinate ``c_k = grid.first + k K``:

    * ``gaussian``: ``exp(-(j - c_k)^2 / (2 sigma^2))`` with ``sigma = FWHM / 2.3548``, cut at 3 sigma;
    * ``box``: how much of thin voxel ``[j - 1/2, j + 1/2]`` lies inside ``[c_k - FWHM/2, c_k + FWHM/2]``;
    * ``slr``: the integral over the voxel of a trapezoid of that FWHM whose flanks are ``SLR_TRANSITION * FWHM`` wide,
      as a Shinnar-Le Roux selective pulse makes;
    * ``decimation``: the value at ``c_k``, interpolated linearly between two voxels.

    A voxel that only partly belongs to a slice counts as a whole, so for a K that is not whole, the weights alone would
    place a slice up to a tenth of a voxel beside its centre. Therefore each row is tilted until its centre of mass is
    the centre of the slice, and a linear ramp is acquired exactly. Rows that are symmetric, as all are for a whole K,
    do not change. Voxels outside the volume are then left out and every row is normalised to sum 1, so a constant stays
    constant.

    Args:
        profile: one of ``SLICE_PROFILES``.
        fwhm: full width at half maximum in thin voxels (slice thickness / thin spacing); ignored by ``decimation``.
        grid: positions of thick and thin slices.

    Returns:
        Read-only float64 array of shape ``(n_slices, n_thin)``.

    Raises:
        ValueError: for an unknown profile or a width that is too small.
    """
    if profile not in SLICE_PROFILES:
        raise ValueError(f"profile must be one of {SLICE_PROFILES}, got {profile!r}; correct slice_profile")
    if profile != "decimation" and not fwhm >= 1:
        raise ValueError(f"fwhm must be >= 1 thin voxel for profile {profile!r}, got {fwhm}; use 'decimation' instead")
    margin = math.ceil(GAUSSIAN_CUT_SIGMAS * fwhm) + 1  # the widest profile, so that only the end cuts a row off
    wide = grid.widened(margin)
    offset = np.arange(wide.n_thin, dtype=np.float64)[None, :] - wide.slice_coordinates[:, None]
    if profile == "gaussian":
        sigma = fwhm / FWHM_PER_SIGMA
        weights = np.exp(-0.5 * (offset / sigma) ** 2) * (np.abs(offset) <= GAUSSIAN_CUT_SIGMAS * sigma)
    elif profile == "box":
        weights = np.clip(np.minimum(offset + 0.5, fwhm / 2) - np.maximum(offset - 0.5, -fwhm / 2), 0, None)
    elif profile == "slr":
        weights = _trapezoid_integral(offset + 0.5, fwhm) - _trapezoid_integral(offset - 0.5, fwhm)
    else:
        weights = np.clip(1 - np.abs(offset), 0, None)
    weights = _centred(weights, offset)[:, margin:-margin]
    weights = weights / weights.sum(axis=1, keepdims=True)
    weights.flags.writeable = False
    return weights


def _centred(weights: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Tilt every row, ``w (1 + a (offset - mean))``, so that its centre of mass has offset 0."""
    total = weights.sum(axis=1, keepdims=True)
    mean = (weights * offset).sum(axis=1, keepdims=True) / total
    variance = (weights * (offset - mean) ** 2).sum(axis=1, keepdims=True) / total
    # a symmetric row is left as it is, to the last digit; one that is a single voxel is symmetric
    tilt = np.where(np.abs(mean) > 1e-9, -mean / np.maximum(variance, 1e-9), 0.0)
    return np.asarray(weights * (1 + tilt * (offset - mean)))


def _trapezoid_integral(z: np.ndarray, fwhm: float) -> np.ndarray:
    """Integral up to ``z`` of the trapezoid of height 1: quadratic on the flanks, linear on the top."""
    flank = SLR_TRANSITION * fwhm
    inner, outer = (fwhm - flank) / 2, (fwhm + flank) / 2
    rising = np.clip(z + outer, 0, flank)
    top = np.clip(z, -inner, inner) + inner
    falling = np.clip(z - inner, 0, flank)
    return rising**2 / (2 * flank) + top + falling - falling**2 / (2 * flank)


@lru_cache(maxsize=16)
def _correction(profile: str, fwhm: float, grid: SliceGrid, eps: float, smoothness: float, cutoff: float) -> np.ndarray:
    """``S D^T (D S D^T + eps)^-1`` without the components that D almost erases; ``(n_thin, n_slices)`` float64."""
    matrix = slice_profile_matrix(profile, fwhm, grid)
    distance = np.subtract.outer(np.arange(grid.n_thin), np.arange(grid.n_thin)) / (smoothness * grid.scale_factor)
    spread = np.exp(-0.5 * distance**2) @ matrix.T  # S D^T
    values, vectors = np.linalg.eigh(matrix @ spread)
    kept = values > cutoff * values[-1]
    factors = np.where(kept, 1 / np.where(kept, values + eps * values.mean(), 1), 0)
    result = spread @ (vectors * factors) @ vectors.T
    result.flags.writeable = False
    return result


@dataclass(frozen=True)
class SliceProfileOperator:
    """D for one slice profile; every method works along the **last** axis of a tensor of any leading shape.

    Args:
        grid: positions of thick and thin slices.
        profile: ``gaussian``, ``box``, ``slr`` or ``decimation``.
        thickness_to_spacing: slice thickness / slice spacing: 1 for slices that touch, less with gaps, more with
            overlaps. The FWHM of the profile is K times that, but at least one thin voxel, because a narrower profile
            cannot be distinguished from it.
        smoothness: correlation length of the correction of data consistency, in slice spacings (standard deviation of
            the Gaussian kernel S). Without it, the shape of the profile would show in the correction as a period-K
            pattern.
        cutoff: components that D weakens too much are not corrected (eigenvalues of ``D S D^T`` below this fraction of
            the largest). A box of two spacings, for example, has a null at the frequency of the slices, where the
            inverse would amplify noise without limit.
    """

    grid: SliceGrid
    profile: str = "gaussian"
    thickness_to_spacing: float = 1.0
    smoothness: float = 0.75
    cutoff: float = 1e-3

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of the profile in thin voxels."""
        return max(1.0, self.grid.scale_factor * self.thickness_to_spacing)

    def condition(self, row_to_slice_spacing: float) -> tuple[float, float, float, float]:
        """The numbers that tell SRNet how a scan was acquired (see :class:`scripts.networks.srnet.SRNet`).

        Args:
            row_to_slice_spacing: spacing of the rows of the network's images over the slice spacing.

        Returns:
            ``1 / K``, slice thickness / slice spacing, standard deviation of the profile / slice spacing, and
            ``row_to_slice_spacing``.
        """
        scale_factor = self.grid.scale_factor
        thickness = 0.0 if self.profile == "decimation" else self.fwhm / scale_factor
        return 1 / scale_factor, thickness, profile_sigma(self.profile, thickness), row_to_slice_spacing

    def told(
        self, row_to_slice_spacing: float, device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of SRNet besides the images of one scan.

        Args:
            row_to_slice_spacing: see :meth:`condition`.
            device: device of the tensors.

        Returns:
            Positions ``(n_thin,)`` and condition ``(1, 4)``, float32.
        """
        condition = torch.tensor([self.condition(row_to_slice_spacing)], dtype=torch.float32, device=device)
        return self.grid.positions_tensor(device), condition

    @property
    def matrix(self) -> np.ndarray:
        """``(n_slices, n_thin)`` float64 matrix of this operator (see :func:`slice_profile_matrix`)."""
        return slice_profile_matrix(self.profile, self.fwhm, self.grid)

    def degrade(self, hr: torch.Tensor) -> torch.Tensor:
        """D x: ``(..., n_thin)`` to ``(..., n_slices)``.

        Raises:
            ValueError: if the last axis is not that of the grid.
        """
        self._check("the thin volume", hr, self.grid.n_thin)
        return hr @ self._tensor(self.matrix, hr).T

    def adjoint(self, lr: torch.Tensor) -> torch.Tensor:
        """D^T y: ``(..., n_slices)`` to ``(..., n_thin)``."""
        self._check("the thick volume", lr, self.grid.n_slices)
        return lr @ self._tensor(self.matrix, lr)

    def enforce(self, hr: torch.Tensor, lr: torch.Tensor, eps: float = 0.0) -> torch.Tensor:
        """Data consistency, **in place**: ``x <- x + S D^T (D S D^T + eps)^-1 (y - D x)``.

        The result is the most likely volume for an estimate ``hr`` whose error has covariance S along the axis. With
        ``eps = 0`` it reproduces the acquired slices exactly, except for components below ``cutoff``. With ``eps > 0``
        it reproduces them up to noise whose variance is ``eps`` times that of the error of ``hr`` in the slices.

        Args:
            hr: ``(..., n_thin)`` estimate, overwritten.
            lr: ``(..., n_slices)`` acquired slices, same intensity scale.
            eps: ratio of noise variance to estimate variance, >= 0.

        Returns:
            ``hr``.
        """
        matrix = self._tensor(self.matrix, hr)
        inverse = self._tensor(
            _correction(self.profile, self.fwhm, self.grid, float(eps), self.smoothness, self.cutoff), hr
        )
        for x, y in zip(hr, lr, strict=True) if hr.ndim > 2 else [(hr, lr)]:
            x += (y - x @ matrix.T) @ inverse.T
        return hr

    def left_by_enforce(self, error: torch.Tensor, eps: float = 0.0) -> torch.Tensor:
        """What :meth:`enforce` leaves of an error: ``e - S D^T (D S D^T + eps)^-1 D e``; gradients flow through it.

        Args:
            error: ``(..., n_thin)``, difference between an estimate and the truth.
            eps: as in :meth:`enforce`.

        Returns:
            ``(..., n_thin)`` error of ``enforce(estimate, D truth)``.
        """
        correction = _correction(self.profile, self.fwhm, self.grid, float(eps), self.smoothness, self.cutoff)
        return error - self.degrade(error) @ self._tensor(correction, error).T

    def raise_to(self, hr: torch.Tensor, floor: float, tolerance: float, rounds: int = 50) -> int:
        """Raise all values to at least ``floor``, **in place**, and change D x as little as possible.

        Every line with a value below ``floor`` is replaced by the line at or above ``floor`` whose slices are nearest
        to those of ``hr``, found from ``hr`` by accelerated projected gradients (Beck and Teboulle, 2009). If slices do
        not overlap, D x does not change, because no slice lies below the minimum of its scan. If they overlap, there
        may be no volume above the floor that reproduces them; the residual shows the difference.

        Args:
            hr: ``(..., n_thin)``, contiguous, overwritten.
            floor: lowest value.
            tolerance: a value that is below ``floor`` by at most this is raised without regard to the slices.
            rounds: number of steps of the search.

        Returns:
            Number of values that were below ``floor`` by more than ``tolerance``.
        """
        matrix = self._tensor(self.matrix, hr)
        step = 1 / float(np.linalg.norm(self.matrix, 2)) ** 2
        lines = hr.view(-1, hr.shape[-1])
        raised = 0
        for x in lines.split(2**14):
            below = x < floor - tolerance
            raised += int(below.sum())
            rows = below.any(dim=-1).nonzero()[:, 0]
            told = (x[rows] @ matrix.T).clamp_(min=floor)
            x.clamp_(min=floor)
            best = x[rows]
            ahead, momentum = best, 1.0
            for _ in range(rounds if len(rows) else 0):
                before = best
                best = (ahead + step * (told - ahead @ matrix.T) @ matrix).clamp_(min=floor)
                faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
                ahead = best + (momentum - 1) / faster * (best - before)
                momentum = faster
            x[rows] = best
        return raised

    @staticmethod
    def _check(what: str, volume: torch.Tensor, length: int) -> None:
        if volume.shape[-1] != length:
            raise ValueError(
                f"{what} must have {length} slices along its last axis, got {volume.shape[-1]}; make a grid of that"
            )

    @staticmethod
    def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(array, dtype=like.dtype, device=like.device)
