# SPDX-License-Identifier: Apache-2.0
"""Preprocessed volumes: in memory up to a limit, and memory-mapped from disk beyond it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

__all__ = ["StageVolumes", "VolumeStore"]

logger = logging.getLogger(__name__)


class VolumeStore(Dataset):
    """Preprocess every volume once, for thousands of random patches.

    Args:
        data: items with ``image``, ``case`` and ``patient``. If an item has a ``weight`` (default 1), volumes are drawn
            in proportion to their weights.
        transform: loads and preprocesses an item; must leave a tensor ``image`` and ``spacing_mm``.
        memory_gb: limit of the memory for volumes. The others are written as ``.npy`` files and memory-mapped, so that
            the operating system keeps only the parts in use.
        spill_dir: folder for these files; made when needed.
        progress: show a progress bar.

    Attributes:
        patients: patient of each volume, in order.
        shares: probability of each volume, sum 1; ``None`` if all are equally likely.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        memory_gb: float,
        spill_dir: str,
        progress: bool = True,
    ) -> None:
        self.patients = [str(item["patient"]) for item in data]
        weights = np.array([float(item.get("weight", 1.0)) for item in data])
        self.shares = weights / weights.sum() if len(set(weights)) > 1 else None
        self.volumes: list[dict[str, Any]] = []
        held, spilled = 0, 0
        for item in tqdm(data, desc="reading volumes", unit="volume", disable=None if progress and data else True):
            volume = transform(item)
            image: torch.Tensor = volume["image"]
            nbytes = image.numel() * image.element_size()
            if held + nbytes <= memory_gb * 2**30:
                held += nbytes
            else:
                image = _spill(image, Path(spill_dir) / f"{len(self.volumes):05d}_{Path(str(item['case'])).name}.npy")
                spilled += nbytes
            spacing_mm = tuple(float(s) for s in volume["spacing_mm"])
            thickness = float(volume.get("thickness_to_spacing", 1.0))
            self.volumes.append({"image": image, "spacing_mm": spacing_mm, "thickness_to_spacing": thickness})
        if spilled:
            logger.info(
                "%.2f GB of volumes in memory, %.2f GB memory-mapped in %s", held / 2**30, spilled / 2**30, spill_dir
            )

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.volumes[index])


class StageVolumes:
    """Read the volumes of a stage, one kind at a time, so that stage 1 never opens an MR scan for training.

    Args:
        datalist: see :func:`scripts.data.split.make_datalist`.
        preprocessing: ``ct`` and ``mr`` to the transform of :class:`VolumeStore`.
        memory_gb: memory limit for the training volumes of a stage, half of it for CT and half for MR.
        spill_dir: folder for volumes beyond the limit.
    """

    def __init__(
        self,
        datalist: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
        preprocessing: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]],
        memory_gb: float,
        spill_dir: str,
    ) -> None:
        self.datalist = datalist
        self.preprocessing = preprocessing
        self.memory_gb = memory_gb
        self.spill_dir = Path(spill_dir)

    def training(self, modality: str) -> VolumeStore:
        """The ``ct`` or ``mr`` volumes to train on."""
        return self._read(modality, "training", modality)

    def validation(self, modality: str) -> VolumeStore:
        """The ``ct`` or ``mr`` volumes that are held out."""
        return self._read(modality, "validation", "validation")

    def _read(self, modality: str, part: str, folder: str) -> VolumeStore:
        items = self.datalist[modality][part]
        return VolumeStore(items, self.preprocessing[modality], self.memory_gb / 2, str(self.spill_dir / folder))


def _spill(image: torch.Tensor, path: Path) -> torch.Tensor:
    """Write a tensor to disk, and return it as a memory map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, image.numpy())
    # copy-on-write, because torch needs a writable buffer; the file never changes
    return torch.from_numpy(np.load(path, mmap_mode="c"))
