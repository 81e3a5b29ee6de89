# SPDX-License-Identifier: Apache-2.0
"""Load a NIfTI file or a DICOM series strictly.

MONAI's ``LoadImaged`` is not used: it tries its default readers when the chosen one refuses a file, which would turn a
refusal into a guess. The class name holds ``LoadImage`` because MONAI Deploy finds the loading step by it.

The keys of ``image.meta``, besides MONAI's own, and what writes them:

======================== ============================================================ ===============================
key                      what it is                                                   written by
======================== ============================================================ ===============================
stored_dtype             dtype of the values on disk (:class:`scripts.volume.Volume`) loading
slice_thickness_mm       NaN if the source does not state it                          loading
padding_mask             bool, axes of the image; only where there is padding         loading, then orienting
padding_value            value of the padding, scanner units                          loading
slice_spacing_mm         from the positions                                           loading of DICOM
slice_gap_mm             spacing minus thickness; NaN if that is not stated           loading of DICOM
lossy                    whether lossy compression ever changed the values            loading of DICOM
inverted                 whether the source is MONOCHROME1                            loading of DICOM
body_part                word of :mod:`scripts.dicom.anatomy`, or empty               loading of DICOM
qform, qform_code        as in the file; likewise ``sform``, ``sform_code``           loading of NIfTI
xyzt_units               as in the file                                               loading of NIfTI
thick_axis               stored axis of the slices                                    :mod:`scripts.transforms.orient`
slice_axis               stored axis of a scan's slices that were made thick in-plane  evaluation in-plane
working_spacing_mm       spacing along the working axes                               :mod:`scripts.transforms.orient`
intensity_low, _high     scanner units of -1 and +1                                   ScaleMRd
lowest_value             lowest measured value, scanner units                         ScaleMRd
outside_envelope         one line per limit that the scan exceeds                     CheckEnveloped
data_consistency_residual as a fraction of the range                                  DataConsistencyd
raised_voxels            voxels of the result raised to the minimum of the scan       DataConsistencyd
clipped_voxels           voxels of the result clipped to the range of its dtype       PlaceOnGridd
======================== ============================================================ ===============================
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
from ..reasons import CaseError, Reason
from ..volume import Volume

__all__ = ["LoadImageVolumed", "as_meta_tensor"]


def as_meta_tensor(volume: Volume, name: str) -> MetaTensor:
    """Convert a volume to the form that MONAI's transforms and hosts expect.

    Args:
        volume: what a reader returned.
        name: case name; it becomes the stem of output files.

    Returns:
        ``(1, I, J, K)`` float32 with MONAI's own ``affine``, ``original_affine``, ``spatial_shape``, and the keys of
        the table at the head of this module.
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
    for key, value in volume.meta.items():  # a MONAI batch may hold tensors, numbers and text, but not None
        meta[key] = (
            torch.from_numpy(value) if isinstance(value, np.ndarray) else float("nan") if value is None else value
        )
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(volume.array))[None], meta=meta)


class LoadImageVolumed(MapTransform):
    """Replace a path (NIfTI file or folder of one DICOM series) or a discovered series by its voxels.

    Args:
        keys: keys that hold a path or a :class:`scripts.dicom.discovery.SeriesCandidate`.
        case_key: where the case's name stands; without it the name is the file's stem.
        min_distinct_values: a scan of whole numbers that holds fewer different ones is taken for a map of labels and
            refused; 0 refuses none.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        case_key: str = "case",
        min_distinct_values: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.case_key = case_key
        self.min_distinct_values = min_distinct_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read every key.

        Raises:
            CaseError: naming the file and the reason.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            name, volume = read_case(result[key])
            self._check_levels(name, volume)
            result[key] = as_meta_tensor(volume, str(result.get(self.case_key, name)))
        return result

    def _check_levels(self, name: str, volume: Volume) -> None:
        if volume.stored_dtype.kind == "f" and (volume.array % 1).any():
            return
        values = np.unique(volume.array)
        if 1 < len(values) < self.min_distinct_values:
            raise CaseError(
                Reason.LABEL_MAP,
                f"{name} must be an image, got whole numbers of only {len(values)} different values, as in a map of "
                "labels; leave it out, or set min_distinct_values to 0",
            )
