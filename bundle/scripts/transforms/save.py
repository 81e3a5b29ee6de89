# SPDX-License-Identifier: Apache-2.0
"""Write NIfTI so that a file is complete or absent, and has the position of its source in both qform and sform."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ImageWriter, NibabelWriter

from ..files import whole
from ..nifti import moved_forms

__all__ = ["AtomicNibabelWriter"]


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's NIfTI writer, which writes a file under another name and renames it when it is complete.

    The result of a NIfTI file has qform and sform of its source, with their codes and units (see
    :func:`scripts.nifti.moved_forms`). Any other result has two equal forms in scanner coordinates, in mm.
    """

    @classmethod
    def resample_if_needed(cls, data_array: Any, affine: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        """Do nothing: a result needs no resampling, but MONAI's method would still copy the volume to a wider dtype."""
        return data_array, affine

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any) -> None:
        """Keep the meta data that :meth:`write` needs."""
        super().set_metadata(meta_dict, resample=resample, **options)
        self.meta = meta_dict or {}

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write ``filename``; after an error, no file of that name exists."""
        data = ImageWriter.create_backend_obj(self.data_obj)
        affine = np.eye(4) if self.affine is None else np.asarray(self.affine, dtype=np.float64).reshape(4, 4)
        if "sform_code" in self.meta:
            header = moved_forms(self.meta, affine, data.shape[:3])
        else:
            header = nib.Nifti1Header()
            header.set_xyzt_units("mm")
            header.set_sform(affine, code="scanner")
            header.set_qform(affine, code="scanner")
        header.set_data_dtype(data.dtype)
        if self.meta.get("quality", {}).get("result") == "cubic":
            header["descrip"] = b"cubic interpolation with data consistency: nearer the truth by self-check"
        with whole(filename) as part:
            nib.save(nib.Nifti1Image(data, None, header), part)
