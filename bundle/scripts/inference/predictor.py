# SPDX-License-Identifier: Apache-2.0
"""Use the bundle from Python: super-resolve a file or an array in memory, with the settings of ``inference.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from ..quality.self_check import SaveQualityd
from ..transforms.load import as_meta_tensor
from ..volume import KEPT_DTYPES, Volume
from .guide import guided_batch

__all__ = ["Predictor"]


class Predictor:
    """Super-resolve scans one by one, in memory.

    Args:
        bundle_root: folder of the bundle; ``None`` stands for the bundle that contains this file.
        overrides: config files that are read after ``inference.json``, given as paths or as names of files in the
            bundle's ``configs``, such as ``network_guided.json``.
        ids: overrides of ids of ``inference.json``, such as ``device="cpu"``; nested ids are given as
            ``**{"network_def::blocks": 4}``.

    Raises:
        ValueError: for an id that the config does not have.
        FileNotFoundError: if there are no weights.
    """

    def __init__(
        self, bundle_root: str | Path | None = None, overrides: Sequence[str | Path] = (), **ids: object
    ) -> None:
        root = Path(__file__).resolve().parents[2] if bundle_root is None else Path(bundle_root)
        parser = ConfigParser()
        parser.read_config([root / "configs" / name for name in ("inference.json", *overrides)])
        unknown = [name for name in ids if name not in parser]
        if unknown:
            raise ValueError(f"ids must be those of inference.json, got {', '.join(unknown)}; see docs/configs.md")
        parser.update({"bundle_root": str(root), **ids})
        self.network = parser.get_parsed_content("network")
        self.inferer = parser.get_parsed_content("inferer")
        self.device = torch.device(parser.get_parsed_content("device"))
        self.load, *self.prepare = parser.get_parsed_content("preprocessing").transforms
        postprocessing = parser.get_parsed_content("postprocessing").transforms
        self.finish = [t for t in postprocessing if not isinstance(t, (SaveImaged, SaveQualityd))]

    def __call__(
        self,
        scan: str | Path | np.ndarray,
        affine: np.ndarray | None = None,
        slice_thickness_mm: float | None = None,
    ) -> MetaTensor:
        """Super-resolve one scan.

        Args:
            scan: a NIfTI file, a folder of one DICOM series, or ``(I, J, K)`` voxels in scanner units.
            affine: ``(4, 4)`` voxel-to-world matrix of an array, mm, RAS+.
            slice_thickness_mm: slice thickness of an array; if it is not given, the slice spacing is taken.

        Returns:
            The volume on the thin grid, with the stored order of axes and its ``affine``. It has the scan's dtype where
            that can hold the values (see :class:`scripts.transforms.orient.PlaceOnGrid`).

        Raises:
            ValueError: for an array without an affine, a path with one, or voxels that are not ``(I, J, K)``.
            CaseError: with the reason why this scan cannot be processed.
        """
        data: dict[Any, Any]
        if isinstance(scan, np.ndarray):
            data = {"image": as_meta_tensor(_volume(scan, affine, slice_thickness_mm), "array")}
        else:
            if affine is not None or slice_thickness_mm is not None:
                raise ValueError("affine and slice_thickness_mm must be left out for a file, which states its own")
            data = self.load({"image": str(scan)})
        for transform in self.prepare:  # one by one, because MONAI's Compose would wrap a CaseError
            data = transform(data)
        image = data["image"]
        with torch.no_grad():
            inputs, _, guide, _ = guided_batch(
                {key: data[key][None] for key in ("image", "guide") if key in data}, self.device
            )
            data["pred"] = self.inferer(inputs, self.network, *guide)[0].to(image.device)
        for transform in self.finish:
            data = transform(data)
        return data["pred"][0]


def _volume(array: np.ndarray, affine: np.ndarray | None, slice_thickness_mm: float | None) -> Volume:
    if affine is None:
        raise ValueError("affine must be given with an array, got None; pass the voxel-to-world matrix in mm, RAS+")
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise ValueError(f"an array must be (I, J, K) numbers, got {array.ndim} axes of {array.dtype}; pass one volume")
    stored = array.dtype.newbyteorder("=")
    return Volume(
        array.astype(np.float32),
        np.asarray(affine, dtype=np.float64),
        stored if stored.name in KEPT_DTYPES else np.dtype(np.float32),
        slice_thickness_mm,
    )
