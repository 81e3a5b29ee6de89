# SPDX-License-Identifier: Apache-2.0
"""Thick stacks of one session into one volume that explains all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..degradation import SliceProfileOperator
from ..reasons import CaseError, Reason
from .registration import Registration, register_rigid
from .resampling import Interpolated, grid_voxels

__all__ = ["Fused", "Stack", "fuse_stacks", "register_stacks"]


@dataclass(frozen=True)
class Stack:
    """One stack, as acquired and as its network has super-resolved it; stored axes, scanner units.

    Attributes:
        name: of the case.
        thick: ``(I, J, K)``, the acquired slices.
        affine: ``(4, 4)`` RAS of them.
        thin: the single-stack result.
        thin_affine: ``(4, 4)`` RAS of it.
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
        """What data consistency adds to an estimate on the thin grid, and what the estimate left unexplained.

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
    """The volume, on the thin grid of the first stack, and what was done.

    Attributes:
        volume: ``(I, J, K)`` float32, units of the first stack.
        affine: ``(4, 4)`` RAS.
        registrations: of every stack but the first, in order.
        gains: ``(gain, offset)`` that took the intensities of every stack to those of the first.
        residuals: rms of what was left unexplained of each stack, before each round and after the last, as a share of
            the first stack's range.
    """

    volume: np.ndarray
    affine: np.ndarray
    registrations: list[Registration]
    gains: list[tuple[float, float]]
    residuals: list[list[float]]


def fuse_stacks(
    stacks: Sequence[Stack], rounds: int, min_angle_degrees: float, min_correlation: float, register: bool = True
) -> Fused:
    """Start with the mean of the single-stack results; then let every stack correct it in turn.

    A correction is that of data consistency, made on the stack's own thin grid, where D is one matrix, and carried to
    the common grid (projections onto the volumes that explain a stack, in turn). Registered movements are undone.

    Args:
        stacks: at least two; the grid of the first one's result is the common grid.
        rounds: how often every stack corrects.
        min_angle_degrees: between the slices of any two stacks.
        min_correlation: of every stack with the first one's result, after registration.
        register: correct movement of the patient between the stacks; else the affines alone count.

    Raises:
        CaseError: ``STACKS_DIFFER`` if the stacks do not fit together.
    """
    registrations = register_stacks(stacks, min_angle_degrees, min_correlation, register)
    first = stacks[0]
    voxels = grid_voxels(first.thin.shape)
    total, weight = first.thin.astype(np.float64), np.ones(first.thin.shape)
    gains, placed = [(1.0, 0.0)], [_Placed(first, np.eye(4))]
    for stack, found in zip(stacks[1:], registrations, strict=True):
        matched, gain = _match(stack, first, found.matrix)
        moved, known = Interpolated(matched.thin, matched.thin_affine).at(
            voxels, np.linalg.inv(found.matrix) @ first.thin_affine
        )
        total += moved
        weight += known
        gains.append(gain)
        placed.append(_Placed(matched, found.matrix))
    volume = (total / weight).astype(np.float32)
    value_range = float(first.thick.max() - first.thick.min())
    residuals = []
    for _ in range(rounds):
        residuals.append([part.correct(volume, first.thin_affine, voxels) / value_range for part in placed])
    residuals.append([part.look(volume, first.thin_affine)[1] / value_range for part in placed])
    if (lowest := float(first.thick.min())) >= 0:  # a magnitude image
        volume = volume.clip(lowest)
    return Fused(volume, first.thin_affine, registrations, gains, residuals)


def register_stacks(
    stacks: Sequence[Stack], min_angle_degrees: float, min_correlation: float, register: bool = True
) -> list[Registration]:
    """Where every stack but the first lies, and whether all fit together.

    Args:
        stacks: at least two; before the network has been asked, ``thin`` may be what cubic interpolation makes.
        min_angle_degrees: between the slices of any two stacks.
        min_correlation: of every stack with the first one's result, after registration.
        register: as for :func:`fuse_stacks`.

    Returns:
        One for each stack but the first, in order.

    Raises:
        CaseError: ``STACKS_DIFFER`` if the stacks do not fit together.
    """
    _check_angles(stacks, min_angle_degrees)
    first, *others = stacks
    registrations = []
    for stack in others:
        found = _register(stack, first, register)
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


def _register(stack: Stack, first: Stack, register: bool) -> Registration:
    try:
        found = register_rigid(
            first.thin, first.thin_affine, stack.thick, stack.affine, stack.thick_axis,
            stack.operator.thickness_to_spacing,
        )  # fmt: skip
    except ValueError as error:
        raise CaseError(Reason.STACKS_DIFFER, f"{stack.name} and {first.name}: {error}") from error
    if register:
        return found
    return Registration(np.eye(4), 0.0, 0.0, found.similarity_before, found.similarity_before)


def _match(stack: Stack, first: Stack, movement: np.ndarray) -> tuple[Stack, tuple[float, float]]:
    """A stack on the intensity scale of the first one, by a straight line through what both show.

    The line gives both the same mean and standard deviation: least squares would take each one's own blur for error and
    make the line too flat.
    """
    seen, known = Interpolated(first.thin, first.thin_affine).at(
        grid_voxels(stack.thin.shape), movement @ stack.thin_affine
    )
    gain = float(seen[known].std() / stack.thin[known].std())
    offset = float(seen[known].mean() - gain * stack.thin[known].mean())
    thick, thin = (np.float32(gain) * volume + np.float32(offset) for volume in (stack.thick, stack.thin))
    return replace(stack, thick=thick, thin=thin), (gain, offset)


@dataclass(frozen=True)
class _Placed:
    """A stack, on the first one's scale, and where it lies: a place in it, in mm, to the common one."""

    stack: Stack
    movement: np.ndarray

    def correct(self, volume: np.ndarray, affine: np.ndarray, voxels: np.ndarray) -> float:
        """Let the stack correct the volume on the common grid, **in place**; rms of what was unexplained before."""
        change, rms = self.look(volume, affine)
        if self._on(volume, affine):
            volume += change
        else:
            back = np.linalg.inv(self.movement) @ affine
            volume += Interpolated(change, self.stack.thin_affine).at(voxels, back)[0]
        return rms

    def look(self, volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, float]:
        """The change that the stack would make on its own thin grid, and the rms of what the volume leaves unexplained.

        What lies outside the volume is taken from the stack's own result, which explains its slices.
        """
        stack = self.stack
        if self._on(volume, affine):
            change, unexplained = stack.correction(volume, stack.thick)
            return change, float(np.sqrt(np.mean(np.square(unexplained, dtype=np.float64))))
        there, known = Interpolated(volume, affine).at(grid_voxels(stack.thin.shape), self.movement @ stack.thin_affine)
        change, unexplained = stack.correction(np.where(known, there, stack.thin), stack.thick)
        lines = torch.from_numpy(np.ascontiguousarray(np.moveaxis(known, stack.thick_axis, -1), dtype=np.float32))
        inside = np.moveaxis(stack.operator.degrade(lines).numpy() > 0.999, -1, stack.thick_axis)
        seen = np.square(unexplained[inside], dtype=np.float64)
        return change, float(np.sqrt(seen.mean())) if seen.size else 0.0

    def _on(self, volume: np.ndarray, affine: np.ndarray) -> bool:
        """Whether the stack's thin grid is the common one."""
        stack = self.stack
        return stack.thin.shape == volume.shape and np.allclose(self.movement @ stack.thin_affine, affine, atol=1e-6)
