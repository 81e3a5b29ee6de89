# SPDX-License-Identifier: Apache-2.0
"""Rigid movement of the patient between two scans: stacks of one session, or a CT and an MR of different days."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from ..geometry import voxel_spacing_mm
from .resampling import Interpolated

__all__ = ["Registration", "correlation", "mutual_information", "register_rigid"]

Similarity = Callable[[np.ndarray, np.ndarray], float]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of the values of two scans at the same positions, for scans of one contrast."""
    return float(np.corrcoef(one, other)[0, 1])


def mutual_information(one: np.ndarray, other: np.ndarray, bins: int = 24) -> float:
    """Mutual information of the values of two scans at the same positions, for scans of different contrasts.

    Normalised (Studholme et al., Pattern Recognition 1999), less one: ``(H(a) + H(b)) / H(a, b) - 1``, from 0
    (nothing) to 1 (one determines the other). The bins hold equally many values, as far as these differ.

    Args:
        one: ``(n,)``.
        other: ``(n,)``.
        bins: the most bins of each histogram.
    """
    shares = np.arange(1, bins) / bins
    a, b = (np.searchsorted(np.quantile(v, shares), v, side="right") for v in (one, other))
    joint = np.bincount(a * bins + b, minlength=bins**2).reshape(bins, bins) / len(a)
    together = _entropy(joint.ravel())
    return (_entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))) / together - 1 if together > 0 else 0.0


def _entropy(shares: np.ndarray) -> float:
    found = shares[shares > 0]
    return float(-(found * np.log(found)).sum())


@dataclass(frozen=True)
class Registration:
    """Position of the patient in the fixed scan relative to the moving one.

    Attributes:
        matrix: ``(4, 4)`` rigid matrix from a position in the fixed scan, in mm, to the same tissue in the moving one.
        rotation_degrees: angle of the rotation.
        shift_mm: how far the centre of the common field moves.
        similarity_before: similarity of the volumes where both are known, with the affines alone.
        similarity: the same after the movement.
        similarity_elsewhere: largest similarity at any other place that a search has found; 0 without a search. If the
            scans do not show the same anatomy, many places are about equally good.
    """

    matrix: np.ndarray
    rotation_degrees: float
    shift_mm: float
    similarity_before: float
    similarity: float
    similarity_elsewhere: float = 0.0

    @property
    def distinctness(self) -> float:
        """Share by which the similarity at the next best position is smaller; about 0 for a chance position."""
        return 1 - self.similarity_elsewhere / self.similarity if self.similarity > 0 else 0.0


class _Comparison:
    """A thin-slice volume against random voxels of a thick stack; see :func:`register_rigid` for the arguments."""

    def __init__(
        self, moving: np.ndarray, moving_affine: np.ndarray, fixed: np.ndarray, fixed_affine: np.ndarray,
        thick_axis: int, thickness_to_spacing: float, smoothing_mm: float, points: int, least_overlap: float,
        similarity: Similarity, least_value: float, anywhere: bool,
    ) -> None:  # fmt: skip
        blurred = gaussian_filter(np.asarray(moving, np.float32), smoothing_mm / voxel_spacing_mm(moving_affine))
        self.smooth = Interpolated(blurred, moving_affine, order=1)
        widths = smoothing_mm / voxel_spacing_mm(fixed_affine)
        widths[thick_axis] = 0
        target = gaussian_filter(np.asarray(fixed, np.float32), widths)
        rng = np.random.default_rng(0)
        voxels = np.stack([rng.integers(0, n, 8 * points) for n in fixed.shape])
        voxels = voxels[:, target[tuple(voxels)] > least_value].astype(np.float64)
        if not anywhere:
            _, inside = self.smooth.at(voxels, fixed_affine)
            if inside.mean() < least_overlap:
                raise ValueError(
                    f"stacks must show the same place, got an overlap of {inside.mean():.0%}; check that they are of "
                    "one session and one part of the body"
                )
            voxels = voxels[:, inside]
        voxels = voxels[:, :points]
        self.values = target[tuple(voxels.astype(int))]
        self.centre = fixed_affine[:3, :3] @ voxels.mean(axis=1) + fixed_affine[:3, 3]
        offsets = (np.arange(3) - 1) / 3 * thickness_to_spacing
        self.slab = np.repeat(voxels[:, None], len(offsets), axis=1)
        self.slab[thick_axis] += offsets[:, None]
        self.fixed_affine = fixed_affine
        self.least_overlap = least_overlap
        self.similarity = similarity
        self.anywhere = anywhere

    def at(self, parameters: np.ndarray) -> float:
        """The similarity after a movement, or 0 if the scans hardly overlap.

        In a search, it is multiplied by the overlap, because a high similarity over few voxels may be chance.
        """
        found, known = self.smooth.at(self.slab, _rigid(parameters, self.centre) @ self.fixed_affine)
        kept = np.asarray(known.all(axis=0))
        if kept.sum() < max(10, self.least_overlap * len(kept)):
            return 0.0
        similarity = self.similarity(found.mean(axis=0)[kept], self.values[kept])
        return similarity * float(kept.mean()) if self.anywhere else similarity

    def best(self, start: np.ndarray, tolerance: float) -> np.ndarray:
        """The most similar movement within 10 mm and degrees of a start."""
        # a unit is 1 mm, or 1 degree, which moves the edge of a field with a radius of 57 mm by 1 mm
        return minimize(
            lambda x: -self.at(x), start, method="Powell", bounds=[(x - 10, x + 10) for x in start],
            options={"xtol": tolerance, "ftol": 1e-6},
        ).x  # fmt: skip


def register_rigid(
    moving: np.ndarray,
    moving_affine: np.ndarray,
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    thick_axis: int,
    thickness_to_spacing: float = 1.0,
    smoothing_mm: float = 1.0,
    points: int = 20000,
    least_overlap: float = 0.1,
    similarity: Similarity = correlation,
    least_value: float = -np.inf,
    search_mm: float = 0.0,
) -> Registration:
    """Find the movement under which a thin-slice volume looks most like the slices of a thick stack.

    The similarity of the intensities is maximised over three angles and three shifts (Powell's method), over random
    voxels of the stack. The thin volume is averaged over the thickness of the slices of the stack.

    Args:
        moving: ``(I, J, K)`` thin slices.
        moving_affine: ``(4, 4)`` RAS.
        fixed: ``(I, J, K)`` thick slices.
        fixed_affine: ``(4, 4)`` RAS.
        thick_axis: voxel axis of the slices of ``fixed``.
        thickness_to_spacing: their thickness over their spacing.
        smoothing_mm: standard deviation of the Gaussian that smooths the volume, and the stack in its slices.
        points: the most voxels of ``fixed`` that are compared.
        least_overlap: share of the voxels of ``fixed`` that must lie in ``moving``.
        similarity: function of the values at the same positions; larger is better.
        least_value: voxels of ``fixed`` below this are left out, because air surrounds every patient.
        search_mm: largest shift along each world axis in a search before the registration. The search starts from the
            affines and from aligned centres, and its similarities are multiplied by the overlap. With 0 there is no
            search, and the affines must be right to within 10 mm and degrees.

    Raises:
        ValueError: if the two hardly overlap.
    """
    volumes = (moving, moving_affine, fixed, fixed_affine, thick_axis, thickness_to_spacing)
    how = (similarity, least_value)
    start, elsewhere = np.zeros(6), np.zeros((0, 6))
    if search_mm > 0:
        coarse = _Comparison(*volumes, max(3.0, smoothing_mm), points // 5, least_overlap, *how, anywhere=True)
        places = _search(coarse, _centre(moving, moving_affine) - _centre(fixed, fixed_affine), search_mm)
        start, elsewhere = places[0], places[1:][np.linalg.norm(places[1:, 3:] - places[0, 3:], axis=1) > 10]
    fine = _Comparison(*volumes, smoothing_mm, points, least_overlap, *how, anywhere=search_mm > 0)
    best = fine.best(fine.best(start, tolerance=0.1) if search_mm > 0 else start, tolerance=0.01)
    return Registration(
        _rigid(best, fine.centre),
        float(np.linalg.norm(best[:3])),
        float(np.linalg.norm(best[3:])),
        fine.at(np.zeros(6)),
        fine.at(best),
        max((fine.at(place) for place in elsewhere), default=0.0),
    )


def _search(
    coarse: _Comparison, centres_meet: np.ndarray, search_mm: float, step_mm: float = 12.0, count: int = 8
) -> np.ndarray:
    """``(count, 6)`` refined best places from a grid of shifts around both starts, two steps apart, best first."""
    steps = np.arange(-np.ceil(search_mm / step_mm), np.ceil(search_mm / step_mm) + 1) * step_mm
    shifts = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    tried = np.concatenate([shifts, shifts + centres_meet])
    tried = np.concatenate([np.zeros_like(tried), tried], axis=1)
    left = tried[np.argsort([-coarse.at(parameters) for parameters in tried])]
    refined: list[np.ndarray] = []
    while len(left) and len(refined) < count:
        refined.append(coarse.best(left[0], tolerance=0.1))
        left = left[np.linalg.norm(left[:, 3:] - left[0, 3:], axis=1) > 2 * step_mm]
    order = np.argsort([-coarse.at(parameters) for parameters in refined])
    return np.stack([refined[index] for index in order])


def _centre(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """``(3,)`` centre of a volume in mm."""
    return affine[:3, :3] @ ((np.asarray(volume.shape) - 1) / 2) + affine[:3, 3]


def _rigid(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """``(4, 4)``: rotation vector in degrees about ``centre``, then a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(parameters[:3], degrees=True).as_matrix()
    matrix[:3, 3] = centre + parameters[3:] - matrix[:3, :3] @ centre
    return matrix
