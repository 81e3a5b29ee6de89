# SPDX-License-Identifier: Apache-2.0
"""A fixed list of random patches: patch ``i`` depends only on ``(seed, i)``.

So the order of the data has no state. Resuming at iteration ``n`` means starting at patch ``n * batch_size``. The
number of loader workers changes nothing. Two processes that take alternate halves of every batch see exactly the same
patches as one process with twice the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["MixedPatches", "ScaleFactors", "UnpairedPatches"]


class PatientVolumes(Protocol):
    """A sequence of volumes that also knows their patients, such as :class:`scripts.data.volumes.VolumeStore`."""

    patients: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def _seeded(transform: Callable, seed: int) -> Callable:
    """Seed a (composed) MONAI transform; one without randomness is returned unchanged."""
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(seed=seed)
    return transform


class ScaleFactors:
    """Draw random factors K, whole numbers with an additional probability.

    Args:
        lowest: smallest K; K is drawn log-uniformly.
        highest: largest K.
        whole: probability of a whole K; all whole numbers in the range are equally likely.

    Raises:
        ValueError: if the range is empty.
    """

    def __init__(self, lowest: float, highest: float, whole: float = 0.0) -> None:
        if not 1 < lowest <= highest:
            raise ValueError(f"scale factors must be 1 < lowest <= highest, got {lowest} to {highest}; correct the ids")
        self.lowest = lowest
        self.highest = highest
        self.whole_factors = [k for k in range(2, int(highest) + 1) if k >= lowest] if whole > 0 else []
        self.whole = whole

    def __call__(self, rng: np.random.Generator) -> float:
        """Draw one factor."""
        if self.whole_factors and rng.random() < self.whole:
            return float(self.whole_factors[int(rng.integers(len(self.whole_factors)))])
        return float(np.exp(rng.uniform(np.log(self.lowest), np.log(self.highest))))


class _SeededPatches(Dataset):
    """Base of both datasets: sources (volumes with a random transform), a length, a seed and the K of a batch.

    ``batch_size`` consecutive patches, over all processes, share one K, so that they can be stacked.
    """

    def __init__(
        self,
        volumes: Mapping[str, Sequence],
        transforms: Mapping[str, Callable],
        length: int,
        seed: int,
        scale_factors: Callable[[np.random.Generator], float],
        batch_size: int,
    ) -> None:
        for name in volumes:
            if name not in transforms:
                raise ValueError(f"transforms must have one for every source, got none for {name!r}; add it")
            if length and len(volumes[name]) == 0:
                raise ValueError(f"source {name!r} must hold at least one training volume, got none; check its folder")
        self.volumes = dict(volumes)
        self.transforms = dict(transforms)
        self.length = int(length)
        self.seed = int(seed)
        self.scale_factors = scale_factors
        self.batch_size = int(batch_size)

    def __len__(self) -> int:
        return self.length

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return np.random.default_rng([self.seed, index])

    def _scale_factor(self, index: int) -> float:
        return self.scale_factors(np.random.default_rng([self.seed, 1, index // self.batch_size]))

    def _patch(
        self, name: str, volume: dict[str, Any], scale_factor: float, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        transform = _seeded(self.transforms[name], int(rng.integers(2**31)))
        result = transform({**volume, "scale_factor": scale_factor})
        return {key: value for key, value in result.items() if isinstance(value, torch.Tensor)}


class MixedPatches(_SeededPatches):
    """One patch per item, from a source drawn by weight: supervised pairs for stage 1 and in-plane stage 2.

    Args:
        volumes: source name to a sequence of volumes (see :class:`scripts.data.volumes.VolumeStore`).
        transforms: source name to the random transform that makes ``image`` and ``label`` of a volume.
        length: number of items.
        seed: the one seed of the whole list.
        scale_factors: draws the K of a batch.
        batch_size: number of patches, over all processes, that share one K.
        weights: source name to the share of patches drawn from it (any sum); a weight of 0 leaves the source out.
            ``None`` draws from all sources equally.
    """

    def __init__(
        self,
        volumes: Mapping[str, Sequence],
        transforms: Mapping[str, Callable],
        length: int,
        seed: int,
        scale_factors: Callable[[np.random.Generator], float],
        batch_size: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        weights = dict.fromkeys(volumes, 1.0) if weights is None else weights
        names = [name for name in volumes if weights[name] > 0]
        if not names:
            raise ValueError(f"weights must have a positive one, got {dict(weights)}; raise one")
        super().__init__({name: volumes[name] for name in names}, transforms, length, seed, scale_factors, batch_size)
        shares = np.array([weights[name] for name in names], dtype=np.float64)
        self.names, self.shares = names, shares / shares.sum()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = self._rng(index)
        name = self.names[rng.choice(len(self.names), p=self.shares)]
        volumes = self.volumes[name]
        return self._patch(name, volumes[_draw(volumes, rng)], self._scale_factor(index), rng)


class UnpairedPatches(_SeededPatches):
    """One patch of every source per item, drawn independently, never two of the same patient.

    Keys of source ``ct`` come out as ``ct_image``, ``ct_label`` and so on. In addition each item carries one draw of
    the attribute prior N(0, I) per source (``ct_attribute``, shape ``(attribute_channels,)``), so that the noise of the
    joint stage is part of the data order too.

    Args:
        volumes: source name to a sequence of volumes; the first source is drawn first.
        transforms: source name to its random transform.
        length: number of items.
        seed: the one seed of the whole list.
        scale_factors: draws the K of a batch.
        batch_size: number of patches, over all processes, that share one K.
        attribute_channels: length of the attribute code; 0 leaves the draws out.

    Raises:
        ValueError: if no choice of volumes has different patients.
    """

    def __init__(
        self,
        volumes: Mapping[str, PatientVolumes],
        transforms: Mapping[str, Callable],
        length: int,
        seed: int,
        scale_factors: Callable[[np.random.Generator], float],
        batch_size: int,
        attribute_channels: int = 0,
    ) -> None:
        super().__init__(volumes, transforms, length, seed, scale_factors, batch_size)  # type: ignore[arg-type]
        self.attribute_channels = attribute_channels
        self.patients = {name: [str(patient) for patient in source.patients] for name, source in volumes.items()}
        if not any(_all_different(chosen) for chosen in itertools.product(*map(set, self.patients.values()))):
            raise ValueError(
                f"sources {list(volumes)} must hold different patients, got {self.patients}; add another patient"
            )

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = self._rng(index)
        while True:  # few draws suffice: __init__ has checked that there are different patients
            chosen = {name: _draw(volumes, rng) for name, volumes in self.volumes.items()}
            if _all_different(self.patients[name][i] for name, i in chosen.items()):
                break
        item: dict[str, torch.Tensor] = {}
        for name, i in chosen.items():
            patch = self._patch(name, self.volumes[name][i], self._scale_factor(index), rng)
            item.update({f"{name}_{key}": value for key, value in patch.items()})
            if self.attribute_channels:
                prior = rng.standard_normal(self.attribute_channels).astype(np.float32)
                item[f"{name}_attribute"] = torch.from_numpy(prior)
        return item


def _draw(volumes: Sequence, rng: np.random.Generator) -> int:
    """Index of a random volume, by the weights of the store if it has any."""
    return int(rng.choice(len(volumes), p=getattr(volumes, "shares", None)))


def _all_different(patients: Iterable[str]) -> bool:
    listed = list(patients)
    return len(set(listed)) == len(listed)
