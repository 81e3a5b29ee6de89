# SPDX-License-Identifier: Apache-2.0
"""Make a procedural head: skull, folded cortex, ventricles, nuclei, cerebellum, vessels, eyes and sinuses, all from a
seed.

Everything is made in millimetres from band-limited noise and signed distances, so the same seed gives the same head.
Edges are soft over one voxel, like the partial volume of a scanner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

__all__ = ["TISSUES", "Anatomy", "make_anatomy"]

TISSUES = ("air", "skin", "fat", "muscle", "bone", "marrow", "csf", "grey", "white", "nuclei", "vessel", "eye")


@dataclass(frozen=True)
class Anatomy:
    """The tissues of a head.

    Attributes:
        fractions: ``(len(TISSUES), I, J, K)`` float32, share of each tissue in each voxel, summing to 1.
        spacing_mm: ``(3,)``.
    """

    fractions: np.ndarray
    spacing_mm: tuple[float, float, float]


class _Canvas:
    """Tissues painted over each other, with soft edges."""

    def __init__(self, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.spacing = np.asarray(spacing_mm, dtype=np.float64)
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, self.spacing, strict=True)]
        self.position = [a.astype(np.float32) for a in np.meshgrid(*axes, indexing="ij", sparse=True)]
        self.fractions = np.zeros((len(TISSUES), *shape), dtype=np.float32)
        self.fractions[0] = 1

    def noise(self, sigma_mm: float) -> np.ndarray:
        """Band-limited noise of standard deviation 1."""
        shape = self.fractions.shape[1:]
        field = gaussian_filter(self.rng.standard_normal(shape, dtype=np.float32), sigma_mm / self.spacing, mode="wrap")
        return field / field.std()

    def ellipsoid(self, centre_mm: tuple[float, float, float], semi_axes_mm: tuple[float, float, float]) -> np.ndarray:
        """Approximate signed distance to the surface of an ellipsoid in mm, negative inside."""
        radius = sum(((x - c) / s) ** 2 for x, c, s in zip(self.position, centre_mm, semi_axes_mm, strict=True))
        return (np.sqrt(radius) - 1) * min(semi_axes_mm)

    def paint(self, tissue: str, distance_mm: np.ndarray, within: np.ndarray | float = 1.0) -> None:
        """Fill where the signed distance is negative, softly over one voxel; ``within`` limits it to a mask."""
        cover = np.clip(0.5 - distance_mm / self.spacing.min(), 0, 1).astype(np.float32) * within
        self.fractions *= 1 - cover
        self.fractions[TISSUES.index(tissue)] += cover

    def share(self, *tissues: str) -> np.ndarray:
        """Sum of the fractions of some tissues."""
        return self.fractions[[TISSUES.index(t) for t in tissues]].sum(axis=0)


def make_anatomy(seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Anatomy:
    """A head that fills the field of view.

    Args:
        seed: seed of the person.
        shape: ``(I, J, K)`` voxels, left-right, posterior-anterior, inferior-superior.
        spacing_mm: voxel spacing; below about 1.2 mm the folds and vessels are resolved.

    Returns:
        The anatomy.
    """
    canvas = _Canvas(shape, spacing_mm, seed)
    field_mm = np.asarray(shape) * canvas.spacing
    size = float(min(0.46 * field_mm[0] / 0.78, 0.46 * field_mm[1], 0.46 * field_mm[2] / 0.9, 96.0))
    person = 1 + 0.04 * canvas.rng.standard_normal(3)
    semi = np.array([0.78, 1.0, 0.9]) * size * np.clip(person, 0.92, 1.06)
    bumps = canvas.noise(0.12 * size) * 0.012 * size
    head = canvas.ellipsoid((0, 0, 0), tuple(semi)) + bumps
    layers = head + canvas.noise(0.08 * size) * 0.008 * size
    canvas.paint("skin", head)
    canvas.paint("fat", layers + 0.025 * size)
    canvas.paint("muscle", layers + 0.05 * size, within=canvas.position[2] < -0.2 * size)
    canvas.paint("bone", layers + 0.065 * size)
    canvas.paint("marrow", np.abs(layers + 0.105 * size) - 0.014 * size + 0.006 * size * canvas.noise(2.5))
    canvas.paint("csf", layers + 0.15 * size)
    _face(canvas, size)
    _brain(canvas, layers + 0.17 * size, size)
    _vessels(canvas, size)
    i, j, k = map(float, spacing_mm)
    return Anatomy(canvas.fractions, (i, j, k))


def _face(canvas: _Canvas, size: float) -> None:
    """Eyes in fat, sinuses and ear canals of air; outside the brain, in the lower front."""
    rough = canvas.noise(2.0) * 0.02 * size
    for side in (-1, 1):
        orbit = (0.32 * side * size, 0.78 * size, -0.3 * size)
        canvas.paint("fat", canvas.ellipsoid(orbit, (0.17 * size,) * 3) + rough)
        canvas.paint("eye", canvas.ellipsoid((orbit[0], orbit[1] + 0.03 * size, orbit[2]), (0.12 * size,) * 3))
        canvas.paint(
            "air", canvas.ellipsoid((0.5 * side * size, -0.1 * size, -0.55 * size), (0.12 * size,) * 3) + rough
        )
    canvas.paint("air", canvas.ellipsoid((0, 0.7 * size, -0.5 * size), (0.1 * size, 0.16 * size, 0.2 * size)) + rough)


def _brain(canvas: _Canvas, surface: np.ndarray, size: float) -> None:
    """Cerebrum and cerebellum with sheets of grey matter around the sulci."""
    inside = 1.0 * (surface < 0)
    split = np.abs(canvas.position[0] + 1.5 * canvas.noise(0.15 * size)) - 0.6  # the gap between the two hemispheres
    folds = _sheets(canvas, 3.8)
    depth = np.maximum(-surface - 0.26 * size, 0)  # sulci do not reach the middle
    sulci = np.minimum(folds + 0.8 * depth, np.maximum(split, 0))
    cortex = np.minimum(sulci, -surface)
    canvas.paint("grey", surface)
    canvas.paint("white", 2.9 - cortex + 0.5 * canvas.noise(2.0), within=inside)
    canvas.paint("csf", sulci - 0.7, within=inside)
    _deep(canvas, size, inside)
    cerebellum = canvas.ellipsoid((0, -0.45 * size, -0.52 * size), (0.46 * size, 0.32 * size, 0.26 * size))
    below = 1.0 * (canvas.position[2] < 0.1 * size) * inside
    canvas.paint("csf", cerebellum - 1.5, within=below)
    canvas.paint("grey", cerebellum, within=below)
    leaves = _sheets(canvas, 2.2)
    canvas.paint("white", 1.6 - np.minimum(leaves, -cerebellum), within=below * (cerebellum < 0))
    canvas.paint("csf", leaves - 0.35, within=below * (cerebellum < 0))
    stem = canvas.ellipsoid((0, -0.1 * size, -0.6 * size), (0.15 * size, 0.16 * size, 0.45 * size))
    canvas.paint("white", stem, within=inside)


def _sheets(canvas: _Canvas, sigma_mm: float) -> np.ndarray:
    """Distance in mm to the zero level sets of a noise field: winding sheets about ``pi sigma`` apart."""
    field = canvas.noise(sigma_mm)
    slope = np.sqrt(sum(np.gradient(field, s, axis=a) ** 2 for a, s in enumerate(canvas.spacing)))
    return np.abs(field) / np.maximum(slope, 0.3 / sigma_mm)


def _deep(canvas: _Canvas, size: float, inside: np.ndarray) -> None:
    """Nuclei and ventricles."""
    wave = 0.012 * size * canvas.noise(0.06 * size)
    for side in (-1, 1):
        for centre, semi in (
            ((0.13, -0.02, 0.02), (0.09, 0.17, 0.11)),  # thalamus
            ((0.26, 0.12, 0.03), (0.07, 0.2, 0.13)),  # putamen
            ((0.16, 0.25, 0.14), (0.05, 0.13, 0.08)),  # head of the caudate
        ):
            place = (centre[0] * side * size, centre[1] * size, centre[2] * size)
            half_axes = (semi[0] * size, semi[1] * size, semi[2] * size)
            canvas.paint("nuclei", canvas.ellipsoid(place, half_axes) + wave, within=inside)
        horn = ((0.09 * side * size, 0.2 * size, 0.2 * size), (0.06 * size, 0.2 * size, 0.09 * size))
        body = ((0.13 * side * size, -0.22 * size, 0.16 * size), (0.07 * size, 0.26 * size, 0.1 * size))
        for centre, semi in (horn, body):
            canvas.paint("csf", canvas.ellipsoid(centre, semi) + wave, within=inside)
    canvas.paint("csf", canvas.ellipsoid((0, 0.02 * size, -0.02 * size), (0.025 * size, 0.13 * size, 0.12 * size)))


def _vessels(canvas: _Canvas, size: float) -> None:
    """Thin winding vessels in the brain, which thick slices do not resolve."""
    seeds = np.ones(canvas.fractions.shape[1:], dtype=bool)
    brain = canvas.share("grey", "white", "csf", "nuclei") > 0.5
    places = np.argwhere(brain)
    for _ in range(24):
        start = places[canvas.rng.integers(len(places))] * canvas.spacing
        heading = canvas.rng.standard_normal(3)
        for _ in range(int(1.2 * size)):
            heading += 0.35 * canvas.rng.standard_normal(3)
            heading /= np.linalg.norm(heading)
            start = start + heading * 0.7
            voxel = tuple(np.rint(start / canvas.spacing).astype(int))
            if any(v < 0 or v >= n for v, n in zip(voxel, seeds.shape, strict=True)) or not brain[voxel]:
                break
            seeds[voxel] = False
    if seeds.all():
        return
    canvas.paint("vessel", distance_transform_edt(seeds, sampling=canvas.spacing) - 0.9)
