# SPDX-License-Identifier: Apache-2.0
"""The slice-profile operator D, its adjoint, and data consistency.

Acquiring thick slices is a linear map along one axis: LR slice ``k`` is a weighted mean of the HR slices around its
centre. For a given (profile, FWHM, K, number of slices) that map is one banded matrix, made here and nowhere else.
Training, evaluation and data consistency all use it; nothing else in the project downsamples along the thick axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .geometry import hr_slice_coordinate

__all__ = ["SLICE_PROFILES", "SliceProfileOperator", "slice_profile_matrix"]

SLICE_PROFILES = ("gaussian", "box", "decimation")
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
GAUSSIAN_CUT_SIGMAS = 3.0


@lru_cache(maxsize=64)
def slice_profile_matrix(profile: str, fwhm: float, scale_factor: int, n_slices: int) -> np.ndarray:
    """The operator as a matrix.

    Row ``k`` holds the weights of LR slice ``k``, centred at HR coordinate ``c_k = k K + (K - 1) / 2``:

    * ``gaussian``: ``exp(-(j - c_k)^2 / (2 sigma^2))`` with ``sigma = FWHM / 2.3548``, cut at 3 sigma;
    * ``box``: how much of HR voxel ``[j - 1/2, j + 1/2]`` lies inside ``[c_k - FWHM/2, c_k + FWHM/2]``;
    * ``decimation``: the value at ``c_k`` (linear between the two middle voxels when K is even).

    Voxels outside the volume are left out and every row is normalised to sum 1, so a constant stays constant.

    Args:
        profile: one of ``SLICE_PROFILES``.
        fwhm: full width at half maximum in HR voxels (slice thickness / HR slice spacing); ignored by ``decimation``.
        scale_factor: K >= 1.
        n_slices: number of LR slices.

    Returns:
        Read-only float64 array of shape ``(n_slices, scale_factor * n_slices)``.

    Raises:
        ValueError: for an unknown profile, or a width, factor or count that is too small.
    """
    if profile not in SLICE_PROFILES:
        raise ValueError(f"profile must be one of {SLICE_PROFILES}, got {profile!r}; correct slice_profile")
    if scale_factor < 1 or n_slices < 1:
        raise ValueError(f"scale_factor and n_slices must be >= 1, got {scale_factor} and {n_slices}")
    if profile != "decimation" and not fwhm >= 1:
        raise ValueError(f"fwhm must be >= 1 HR voxel for profile {profile!r}, got {fwhm}; use 'decimation' instead")
    centres = hr_slice_coordinate(np.arange(n_slices, dtype=np.float64), scale_factor)
    offset = np.arange(scale_factor * n_slices, dtype=np.float64)[None, :] - np.asarray(centres)[:, None]
    if profile == "gaussian":
        sigma = fwhm / FWHM_PER_SIGMA
        weights = np.exp(-0.5 * (offset / sigma) ** 2) * (np.abs(offset) <= GAUSSIAN_CUT_SIGMAS * sigma)
    elif profile == "box":
        weights = np.clip(np.minimum(offset + 0.5, fwhm / 2) - np.maximum(offset - 0.5, -fwhm / 2), 0, None)
    else:
        weights = np.clip(1 - np.abs(offset), 0, None)
    weights = weights / weights.sum(axis=1, keepdims=True)
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=16)
def _pseudo_inverse(profile: str, fwhm: float, scale_factor: int, n_slices: int, eps: float) -> np.ndarray:
    """``D^T (D D^T + eps I)^-1`` as a float64 array of shape ``(K n_slices, n_slices)``."""
    matrix = slice_profile_matrix(profile, fwhm, scale_factor, n_slices)
    gram = matrix @ matrix.T + eps * np.eye(n_slices)
    result = np.linalg.solve(gram, matrix).T
    result.flags.writeable = False
    return result


@dataclass(frozen=True)
class SliceProfileOperator:
    """D for one slice profile; every method works along the **last** axis of a tensor of any leading shape.

    Args:
        scale_factor: K, the number of thin slices per thick slice.
        profile: ``gaussian``, ``box`` or ``decimation``.
        fwhm: width of the profile in HR voxels, that is ``K * slice_thickness / slice_spacing``. ``None`` means K:
            slices that touch, neither gap nor overlap.
    """

    scale_factor: int
    profile: str = "gaussian"
    fwhm: float | None = None

    def matrix(self, n_slices: int) -> np.ndarray:
        """``(n_slices, K * n_slices)`` float64 matrix of this operator (see :func:`slice_profile_matrix`)."""
        return slice_profile_matrix(self.profile, self._fwhm, self.scale_factor, n_slices)

    def degrade(self, hr: torch.Tensor) -> torch.Tensor:
        """D x: ``(..., K * n_slices)`` to ``(..., n_slices)``.

        Raises:
            ValueError: if the last axis is not a multiple of K.
        """
        n_slices, remainder = divmod(hr.shape[-1], self.scale_factor)
        if remainder or not n_slices:
            raise ValueError(
                f"length along the thick axis must be a multiple of {self.scale_factor}, got {hr.shape[-1]}; crop first"
            )
        return hr @ self._tensor(self.matrix(n_slices), hr).T

    def adjoint(self, lr: torch.Tensor) -> torch.Tensor:
        """D^T y: ``(..., n_slices)`` to ``(..., K * n_slices)``."""
        return lr @ self._tensor(self.matrix(lr.shape[-1]), lr)

    def enforce(self, hr: torch.Tensor, lr: torch.Tensor, eps: float = 0.0) -> torch.Tensor:
        """Data consistency, **in place**: ``x <- x + D^T (D D^T + eps)^-1 (y - D x)``.

        The nearest volume to ``hr`` (in the least-squares sense) that explains the acquired slices; with ``eps = 0``
        it explains them exactly, with ``eps > 0`` up to noise of variance ``eps`` times the variance of the error of
        ``hr``.

        Args:
            hr: ``(..., K * n_slices)`` estimate, overwritten.
            lr: ``(..., n_slices)`` acquired slices, same intensity scale.
            eps: ratio of noise variance to estimate variance, >= 0.

        Returns:
            ``hr``.
        """
        n_slices = lr.shape[-1]
        matrix = self._tensor(self.matrix(n_slices), hr)
        inverse = self._tensor(_pseudo_inverse(self.profile, self._fwhm, self.scale_factor, n_slices, float(eps)), hr)
        for x, y in zip(hr, lr, strict=True) if hr.ndim > 2 else [(hr, lr)]:
            x += (y - x @ matrix.T) @ inverse.T
        return hr

    @property
    def _fwhm(self) -> float:
        return float(self.scale_factor if self.fwhm is None else self.fwhm)

    @staticmethod
    def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(array, dtype=like.dtype, device=like.device)
