# SPDX-License-Identifier: Apache-2.0
"""Scan the anatomy: a T1- or T2-weighted MR and a CT of one made-up person on the same voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .anatomy import TISSUES, Anatomy, make_anatomy

__all__ = ["Patient", "ct_image", "make_patient", "mr_image", "oblique_affine"]

# signal of each tissue, arbitrary units; CT in Hounsfield units
CONTRASTS = {
    "t1": {"air": 4, "skin": 330, "fat": 900, "muscle": 380, "bone": 40, "marrow": 720, "csf": 150, "grey": 470,
           "white": 680, "nuclei": 560, "vessel": 900, "eye": 180},
    "t2": {"air": 4, "skin": 260, "fat": 620, "muscle": 200, "bone": 30, "marrow": 450, "csf": 1000, "grey": 520,
           "white": 370, "nuclei": 440, "vessel": 40, "eye": 950},
    "ct": {"air": -1000, "skin": 40, "fat": -95, "muscle": 58, "bone": 1150, "marrow": 350, "csf": 8, "grey": 38,
           "white": 29, "nuclei": 36, "vessel": 48, "eye": 12},
}  # fmt: skip
MR_CONTRASTS = ("t1", "t2")


@dataclass(frozen=True)
class Patient:
    """One made-up person.

    Attributes:
        mr: ``(I, J, K)`` float32, MR magnitude, thin slices.
        ct: the same voxels in Hounsfield units.
        affine_ras: ``(4, 4)``.
    """

    mr: np.ndarray
    ct: np.ndarray
    affine_ras: np.ndarray


def _blend(anatomy: Anatomy, contrast: str) -> np.ndarray:
    levels = np.array([CONTRASTS[contrast][tissue] for tissue in TISSUES], dtype=np.float32)
    return np.tensordot(levels, anatomy.fractions, axes=1)


def mr_image(anatomy: Anatomy, seed: int, contrast: str = "t1", noise: float = 12.0, bias: float = 0.15) -> np.ndarray:
    """An MR magnitude image.

    Args:
        anatomy: anatomy of the patient.
        seed: seed of the texture, the bias field and the noise.
        contrast: ``t1`` or ``t2``.
        noise: standard deviation of the complex noise, where white matter in T1 has 680.
        bias: standard deviation of the slow multiplicative field.

    Returns:
        ``(I, J, K)`` float32, at least 0.
    """
    rng = np.random.default_rng([seed, 1])
    shape, spacing = anatomy.fractions.shape[1:], np.asarray(anatomy.spacing_mm)
    texture = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.8 / spacing)
    slow = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.2 * np.asarray(shape), mode="wrap")
    signal = _blend(anatomy, contrast) * (1 + 0.04 * texture / texture.std()) * (1 + bias * slow / slow.std() / 3)
    real, imaginary = (noise * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    return np.hypot(signal + real, imaginary).astype(np.float32)


def ct_image(anatomy: Anatomy, seed: int, noise_hu: float = 8.0) -> np.ndarray:
    """A CT of the same anatomy, in Hounsfield units, with correlated noise.

    Args:
        anatomy: anatomy of the patient.
        seed: seed of the noise.
        noise_hu: standard deviation of the noise.

    Returns:
        ``(I, J, K)`` float32.
    """
    rng = np.random.default_rng([seed, 2])
    grain = gaussian_filter(rng.standard_normal(anatomy.fractions.shape[1:], dtype=np.float32), 0.7)
    # a scanner stores nothing below -1024
    return np.maximum(_blend(anatomy, "ct") + noise_hu * grain / grain.std(), -1024).astype(np.float32)


def oblique_affine(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], angles_degrees: tuple[float, float, float]
) -> np.ndarray:
    """RAS affine with the volume's centre at the origin, tilted about x, then y, then z."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        rotation = step @ rotation
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.asarray(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def make_patient(
    seed: int,
    shape: tuple[int, int, int] = (176, 208, 176),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    contrast: str = "t1",
    angles_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Patient:
    """A person, scanned by MR and CT without moving.

    Args:
        seed: seed of the patient and of the noise of the scans.
        shape: ``(I, J, K)``, left-right, posterior-anterior, inferior-superior before tilting.
        spacing_mm: voxel spacing.
        contrast: contrast of the MR, ``t1`` or ``t2``.
        angles_degrees: tilt of the scan; see :func:`oblique_affine`.

    Returns:
        The pair.
    """
    anatomy = make_anatomy(seed, shape, spacing_mm)
    affine = oblique_affine(shape, spacing_mm, angles_degrees)
    return Patient(mr_image(anatomy, seed, contrast), ct_image(anatomy, seed), affine)
