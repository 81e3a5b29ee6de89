# SPDX-License-Identifier: Apache-2.0
"""Load a NIfTI file or a DICOM series, strictly.

MONAI's ``LoadImaged`` tries its default readers when the chosen one refuses a file, which would turn a refusal into a
guess. The class name holds ``LoadImage`` because MONAI Deploy finds the loading step by it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..data.cases import read_case
from ..volume import Volume

__all__ = ["LoadImageVolumed", "as_meta_tensor"]


def as_meta_tensor(volume: Volume, name: str) -> MetaTensor:
    """A volume as MONAI's transforms and hosts want it.

    Args:
        volume: what a reader returned.
        name: case name; it becomes the stem of output files.

    Returns:
        ``(1, I, J, K)`` float32 with ``affine``, ``original_affine``, ``spatial_shape`` and, beyond MONAI's own keys,
        ``stored_dtype`` and ``slice_thickness_mm`` (NaN where the source does not state it). Only where the source
        has padding (see :class:`scripts.volume.Volume`): ``padding_mask``, ``(I, J, K)`` bool, and ``padding_value``.
    """
    meta: dict[str, Any] = {
        "affine": torch.from_numpy(volume.affine_ras.copy()),
        "original_affine": torch.from_numpy(volume.affine_ras.copy()),
        "spatial_shape": np.asarray(volume.array.shape),
        "original_channel_dim": float("nan"),
        "space": "RAS",
        "filename_or_obj": f"{name}.nii.gz",
        "stored_dtype": volume.stored_dtype.name,
        "slice_thickness_mm": float("nan") if volume.slice_thickness_mm is None else float(volume.slice_thickness_mm),
    }
    if volume.padding is not None:
        meta["padding_mask"] = torch.from_numpy(np.ascontiguousarray(volume.padding))
        meta["padding_value"] = volume.padding_value
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(volume.array))[None], meta=meta)


class LoadImageVolumed(MapTransform):
    """Replace a path (NIfTI file or folder of one DICOM series) or a discovered series by its voxels.

    Args:
        keys: keys that hold a path or a :class:`scripts.dicom.discovery.SeriesCandidate`.
        case_key: where the case's name stands; without it the name is the file's stem.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, case_key: str = "case", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read every key.

        Raises:
            CaseError: naming the file and the reason.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            name, volume = read_case(result[key])
            result[key] = as_meta_tensor(volume, str(result.get(self.case_key, name)))
        return result
