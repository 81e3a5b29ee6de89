# SPDX-License-Identifier: Apache-2.0
"""Fuse thick stacks of one session into one volume that agrees with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..degradation import SliceProfileOperator
from ..reasons import CaseError, Reason
from .gain import fit_gain, gain_field
from .registration import Registration, register_rigid
from .resampling import Interpolated, grid_voxels

__all__ = ["Fused", "Stack", "check_stacks", "fuse_stacks"]


@dataclass(frozen=True)
class Stack:
    """One stack, as acquired and as super-resolved alone, in stored axes and scanner units.

    Attributes:
        name: name of the case.
        thick: ``(I, J, K)``, the acquired slices.
        affine: ``(4, 4)`` RAS of ``thick``.
        thin: the single-stack result.
        thin_affine: ``(4, 4)`` RAS of ``thin``.
        thick_axis: voxel axis of the slices.
        operator: D of the stack, along that axis.
        eps: noise-to-signal ratio of its data consistency (:meth:`SliceProfileOperator.enforce`).
    """

    name: str
    thick: np.ndarray
    affine: np.ndarray
    thin: np.ndarray
    thin_affine: np.ndarray
    thick_axis: int
    operator: SliceProfileOperator
    eps: float

    @property
    def normal(self) -> np.ndarray:
        """``(3,)`` unit vector across the slices."""
        normal = self.affine[:3, self.thick_axis]
        return normal / np.linalg.norm(normal)

    def correction(self, estimate: np.ndarray, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Change of an estimate on the thin grid by data consistency, and the residual of the estimate.

        Args:
            estimate: shape of ``thin``, float32.
            slices: shape of ``thick``, float32, on the scale of the estimate.

        Returns:
            The change, shape of ``thin``, and ``slices - D estimate``.
        """
        x, y = (torch.from_numpy(np.ascontiguousarray(np.moveaxis(v, self.thick_axis, -1))) for v in (estimate, slices))
        unexplained = y - self.operator.degrade(x)
        change = self.operator.enforce(x.clone(), y, self.eps) - x
        return np.moveaxis(change.numpy(), -1, self.thick_axis), np.moveaxis(unexplained.numpy(), -1, self.thick_axis)


@dataclass(frozen=True)
class Fused:
    """The fused volume, on the thin grid of the first stack, with facts about the fusion.

    Attributes:
        volume: ``(I, J, K)`` float32, units of the first stack.
        affine: ``(4, 4)`` RAS.
        registrations: registration of each stack except the first, in order.
        gains: ``(lowest, middle, highest)`` of the field that took the intensities of every stack to those of the
            first, where both are known (percentiles 1, 50, 99).
        residuals: rms of the unexplained part of each stack, before each round and after the last one, as a share of
            the range of the first stack.
    """

    volume: np.ndarray
    affine: np.ndarray
    registrations: list[Registration]
    gains: list[tuple[float, float, float]]
    residuals: list[list[float]]


def fuse_stacks(
    stacks: Sequence[Stack],
    rounds: int,
    least_progress: float,
    min_angle_degrees: float,
    min_correlation: float,
    register: bool = True,
) -> Fused:
    """Start with the mean of the single-stack results, and correct it by all stacks together in several rounds.

    The correction by a stack is that of data consistency. It is computed on the stack's own thin grid, where D is one
    matrix, and resampled to the common grid. The mean of all corrections is added (Cimmino's method), so the result
    lies between stacks that contradict each other. Registered movements are undone. A stack has less weight where its
    brightness was raised more, because its noise was raised too.

    Args:
        stacks: at least two; the grid of the first one's result is the common grid.
        rounds: largest number of rounds.
        least_progress: the first round that lowers the unexplained part by less than this share is the last one.
            Further rounds would fit noise and contradictions.
        min_angle_degrees: smallest angle between the slices of any two stacks.
        min_correlation: smallest correlation of each stack with the result of the first one, after registration.
        register: whether to correct movement of the patient between the stacks. If false, the affines are trusted.

    Raises:
        CaseError: ``STACKS_DIFFER`` if the stacks do not fit together.
    """
    registrations = check_stacks(stacks, min_angle_degrees, min_correlation, register)
    first = stacks[0]
    if register:
        pairs = zip(stacks[1:], registrations, strict=True)
        registrations = [_without_coils(stack, first, found) for stack, found in pairs]
    voxels = grid_voxels(first.thin.shape)
    ones = np.ones(first.thin.shape, np.float32)
    parts, weights, gains = [_Placed(first, np.eye(4))], [ones], [(1.0, 1.0, 1.0)]
    volume = first.thin.astype(np.float32)
    for stack, found in zip(stacks[1:], registrations, strict=True):
        matched, weight, gain = _match(stack, first, found.matrix)
        parts.append(_Placed(matched, found.matrix))
        weights.append(Interpolated(weight, stack.thin_affine, order=1).at(voxels, parts[-1].seen_from(first))[0])
        volume += weights[-1] * parts[-1].carried(matched.thin, first, voxels)
        gains.append(gain)
    total = np.sum(weights, axis=0)
    volume /= total
    value_range = float(first.thick.max() - first.thick.min())
    residuals = []
    while True:
        changes, unexplained = [], []
        for part in parts:
            change, rms = part.look(volume, first)
            changes.append(change)
            unexplained.append(rms / value_range)
        residuals.append(unexplained)
        done = len(residuals) - 1
        if done == rounds or (done and np.mean(residuals[-1]) > (1 - least_progress) * np.mean(residuals[-2])):
            break
        for part, weight, change in zip(parts, weights, changes, strict=True):
            volume += weight / total * part.carried(change, first, voxels)
    if (lowest := float(first.thick.min())) >= 0:  # a magnitude image
        volume = volume.clip(lowest)
    return Fused(volume, first.thin_affine, registrations, gains, residuals)


def check_stacks(
    stacks: Sequence[Stack], min_angle_degrees: float, min_correlation: float, register: bool = True
) -> list[Registration]:
    """Check that the stacks fit together, and register every stack to the first one.

    Args:
        stacks: at least two; before the network runs, ``thin`` may come from cubic interpolation.
        min_angle_degrees: smallest angle between the slices of any two stacks.
        min_correlation: smallest correlation of each stack with the result of the first one, after registration.
        register: as for :func:`fuse_stacks`.

    Returns:
        One registration for each stack except the first, in order.

    Raises:
        CaseError: ``STACKS_DIFFER`` if the stacks do not fit together.
    """
    _check_angles(stacks, min_angle_degrees)
    first, *others = stacks
    registrations = []
    for stack in others:
        found = _register(stack, first, stack.thick)
        if not register:
            found = Registration(np.eye(4), 0.0, 0.0, found.similarity_before, found.similarity_before)
        if found.similarity < min_correlation:
            raise CaseError(
                Reason.STACKS_DIFFER,
                f"{stack.name} must be of the same contrast and place as {first.name}: a correlation of at least "
                f"{min_correlation:g}, got {found.similarity:.2f}; leave it out",
            )
        registrations.append(found)
    return registrations


def _check_angles(stacks: Sequence[Stack], min_angle_degrees: float) -> None:
    if len(stacks) < 2:
        raise CaseError(Reason.STACKS_DIFFER, f"at least two stacks must be fused, got {len(stacks)}; name more")
    for index, one in enumerate(stacks):
        for other in stacks[index + 1 :]:
            angle = float(np.degrees(np.arccos(min(1.0, abs(float(one.normal @ other.normal))))))
            if angle < min_angle_degrees:
                raise CaseError(
                    Reason.STACKS_DIFFER,
                    f"the slices of {one.name} and {other.name} must be at least {min_angle_degrees:g} degrees apart, "
                    f"got {angle:.0f}; take stacks of different planes",
                )


def _register(stack: Stack, first: Stack, thick: np.ndarray) -> Registration:
    try:
        return register_rigid(
            first.thin, first.thin_affine, thick, stack.affine, stack.thick_axis, stack.operator.thickness_to_spacing
        )
    except ValueError as error:
        raise CaseError(Reason.STACKS_DIFFER, f"{stack.name} and {first.name}: {error}") from error


def _without_coils(stack: Stack, first: Stack, found: Registration, passes: int = 2) -> Registration:
    """Register again with the fitted gain, because the falling sensitivity of a coil shifts the best match."""
    again = found
    for _ in range(passes):
        again = _register(stack, first, _match(stack, first, again.matrix)[0].thick)
    return replace(again, similarity_before=found.similarity_before)


def _match(stack: Stack, first: Stack, movement: np.ndarray) -> tuple[Stack, np.ndarray, tuple[float, float, float]]:
    """The stack with the brightness of the first stack, the weight of each voxel of its result, and the gain."""
    seen, known = Interpolated(first.thin, first.thin_affine).at(
        grid_voxels(stack.thin.shape), movement @ stack.thin_affine
    )
    # a magnitude of 0 is 0 in both scans; interpolation may leave a few values below 0
    floor, own_floor = (min(0.0, float(np.percentile(scan.thick, 0.5))) for scan in (first, stack))
    try:
        fit = fit_gain(seen - floor, stack.thin - own_floor, known)
    except ValueError as error:
        raise CaseError(Reason.STACKS_DIFFER, f"{stack.name} and {first.name}: {error}") from error
    thick, thin = (floor + gain_field(fit, volume.shape) * (volume - own_floor) for volume in (stack.thick, stack.thin))
    gain = gain_field(fit, stack.thin.shape)
    low, middle, high = (float(value) for value in np.percentile(gain[known], [1, 50, 99]))
    return replace(stack, thick=thick, thin=thin), np.minimum(1, (middle / gain) ** 2), (low, middle, high)


@dataclass(frozen=True)
class _Placed:
    """A stack on the intensity scale of the first one, with the map from its positions in mm to the common ones."""

    stack: Stack
    movement: np.ndarray

    def seen_from(self, first: Stack) -> np.ndarray:
        """``(4, 4)`` map from voxels of the common grid to positions of this stack in mm."""
        return np.linalg.inv(self.movement) @ first.thin_affine

    def carried(self, volume: np.ndarray, first: Stack, voxels: np.ndarray) -> np.ndarray:
        """Resample a volume from the stack's thin grid to the common grid; 0 outside the stack."""
        if self._on(first):
            return volume
        return Interpolated(volume, self.stack.thin_affine).at(voxels, self.seen_from(first))[0]

    def look(self, volume: np.ndarray, first: Stack) -> tuple[np.ndarray, float]:
        """The correction by the stack on its own thin grid, and the rms of the part of the stack that is unexplained.

        Outside the volume, the stack's own result is taken, which explains its slices.
        """
        stack = self.stack
        if self._on(first):
            change, unexplained = stack.correction(volume, stack.thick)
            return change, float(np.sqrt(np.mean(np.square(unexplained, dtype=np.float64))))
        there, known = Interpolated(volume, first.thin_affine).at(
            grid_voxels(stack.thin.shape), self.movement @ stack.thin_affine
        )
        change, unexplained = stack.correction(np.where(known, there, stack.thin), stack.thick)
        lines = torch.from_numpy(np.ascontiguousarray(np.moveaxis(known, stack.thick_axis, -1), dtype=np.float32))
        inside = np.moveaxis(stack.operator.degrade(lines).numpy() > 0.999, -1, stack.thick_axis)
        seen = np.square(unexplained[inside], dtype=np.float64)
        return change, float(np.sqrt(seen.mean())) if seen.size else 0.0

    def _on(self, first: Stack) -> bool:
        """Whether the stack's thin grid is the common grid."""
        stack = self.stack
        same = stack.thin.shape == first.thin.shape
        return same and np.allclose(self.movement @ stack.thin_affine, first.thin_affine, atol=1e-6)
