# SPDX-License-Identifier: Apache-2.0
"""The patient's own CT as a guide: registered to the thick scan, checked, and carried to the thin grid."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy.ndimage import gaussian_filter

from ..data.cases import read_case
from ..fusion.registration import Registration, mutual_information, register_rigid
from ..fusion.resampling import Interpolated, grid_voxels
from ..geometry import Orientation, voxel_spacing_mm
from ..intensity import TISSUE_LEVEL, ct_to_unit
from ..reasons import CaseError, Reason
from ..transforms.orient import slice_grid, thickness_to_spacing
from ..volume import Volume

__all__ = ["GuideByCTd", "guided_batch", "on_thin_grid", "working_affine"]

POLICIES = ("refuse", "unguided")


def working_affine(image: MetaTensor) -> np.ndarray:
    """``(4, 4)`` RAS affine of the working axes of an oriented scan."""
    affine = np.asarray(image.meta["original_affine"], dtype=np.float64).reshape(4, 4)
    orientation = Orientation.of(affine, int(image.meta["thick_axis"]))
    return affine @ orientation.working_to_stored(image.shape[1:])


def on_thin_grid(ct: torch.Tensor, known: torch.Tensor, affine: np.ndarray, image: MetaTensor) -> torch.Tensor:
    """A CT at the voxels that the result of a scan will have.

    A CT that is finer than these is smoothed first, so that nothing aliases.

    Args:
        ct: ``(I, J, K)``, unit range.
        known: ``(I, J, K)`` bool, true where the CT was measured.
        affine: ``(4, 4)`` RAS affine of the registered CT.
        image: the oriented scan, whose thin grid has been chosen.

    Returns:
        ``(2, H1, H2, n_thin)`` float32: the CT, and a mask that is 1 where the CT is known. Both are 0
            elsewhere.
    """
    grid = slice_grid(image)
    thin_affine = grid.thin_affine(working_affine(image), 2)
    ratio = voxel_spacing_mm(thin_affine).min() / voxel_spacing_mm(affine)
    smooth = gaussian_filter(ct.numpy(), 0.4 * np.sqrt(np.maximum(ratio**2 - 1, 0)))
    values = Interpolated(smooth, affine)
    measured = Interpolated(known.numpy().astype(np.float32), affine, order=1)
    shape = (*image.shape[1:3], grid.n_thin)
    guide = np.empty((2, *shape), dtype=np.float32)
    row = grid_voxels((1, *shape[1:]))
    for index in range(shape[0]):  # row by row, because the coordinates take three float64 values per voxel
        row[0] = index
        found, _ = values.at(row, thin_affine)
        inside, _ = measured.at(row, thin_affine)
        guide[1, index] = inside[0] > 0.999
        guide[0, index] = found[0] * guide[1, index]
    return torch.from_numpy(guide)


class GuideByCTd(MapTransform):
    """Add ``data["guide"]`` for :class:`scripts.networks.guided.GuidedSRNet`. Without a CT, nothing is done.

    The CT is registered to the scan's tissue (rigidly, by mutual information). The registration counts as failed if
    another place fits about as well as the best one. One line in ``data[key].meta["guide"]`` says what was done.

    Args:
        keys: the oriented and scaled scan, whose thin grid has been chosen.
        path: a NIfTI file or a folder of one DICOM series, in Hounsfield units; ``None`` for no guide.
        network: the network that will take the guide.
        register: whether to register the CT to the scan. If false, the affines of both are trusted.
        search_mm: largest shift that is searched, both from the affines and from aligned centres
            (:func:`scripts.fusion.registration.register_rigid`).
        min_distinctness: share by which the mutual information at the next best place must be lower.
        min_overlap: share of the scan that the CT must cover.
        policy: ``refuse`` a scan that the CT does not fit, or process it ``unguided`` and report that.
        window_hu: Hounsfield units that become -1 and 1, as in training (``ct_window_hu``).
        padding_below_hu: values below this are padding, not measurements.
        slice_thickness_mm: overrides the thickness in the scan's header.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for an unknown policy, a CT without a network that takes a guide, or such a network without a CT.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | None,
        network: torch.nn.Module,
        register: bool,
        search_mm: float,
        min_distinctness: float,
        min_overlap: float,
        policy: str,
        window_hu: Sequence[float],
        padding_below_hu: float,
        slice_thickness_mm: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        takes_guide = getattr(network, "takes_guide", False)
        if path is not None and not takes_guide:
            raise ValueError(
                f"guide_ct must go with a network that takes a guide, got {type(network).__name__}; add "
                "network_guided.json, or leave guide_ct out"
            )
        if path is None and takes_guide:
            raise ValueError(
                f"guide_ct must be given for {type(network).__name__}, got none; give guide_ct, or leave "
                "network_guided.json out"
            )
        if policy not in POLICIES:
            raise ValueError(f"guide_policy must be one of {POLICIES}, got {policy!r}; correct the id")
        self.path = path
        self.register = register
        self.search_mm = search_mm
        self.min_distinctness = min_distinctness
        self.min_overlap = min_overlap
        self.policy = policy
        self.window_hu = (float(window_hu[0]), float(window_hu[1]))
        self.padding_below_hu = padding_below_hu
        self.slice_thickness_mm = slice_thickness_mm
        self.logger = logging.getLogger(type(self).__name__)
        self._volume: Volume | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the guide.

        Raises:
            CaseError: ``NOT_A_CT``, ``GUIDE_DIFFERS`` under the policy ``refuse``, or any reason of the reader.
        """
        result = dict(data)
        if self.path is None:
            return result
        volume = self._read()
        hu = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
        ct, known = ct_to_unit(hu, self.window_hu, self.padding_below_hu), hu >= self.padding_below_hu
        for key in self.key_iterator(result):
            image: MetaTensor = result[key]
            affine, line, fits = self._place(ct, volume.affine_ras, image)
            guide = on_thin_grid(ct, known, affine, image)
            overlap = float(guide[1].mean())
            if fits and overlap < self.min_overlap:
                line, fits = f"the CT must show {self.min_overlap:.0%} of the scan, got {overlap:.0%}", False
            if not fits:
                if self.policy == "refuse":
                    raise CaseError(
                        Reason.GUIDE_DIFFERS,
                        f"{line}; give the CT of this person and part of the body, or set guide_policy to unguided",
                    )
                guide.zero_()
                self.logger.warning("without the guide: %s", line)
            else:
                self.logger.info("guide: %s, %.0f %% of the scan", line, 100 * overlap)
            image.meta["guide"] = f"{'used' if fits else 'not used'}: {line}"
            result["guide"] = guide
        return result

    def _read(self) -> Volume:
        if self._volume is None:
            _, volume = read_case(self.path, "CT")
            if float(volume.array.min()) > -50:
                raise CaseError(
                    Reason.NOT_A_CT,
                    f"guide_ct must be in Hounsfield units, where fat and air are below -50, got a minimum of "
                    f"{float(volume.array.min()):.4g}; give a CT",
                )
            self._volume = volume
        return self._volume

    def _place(self, ct: torch.Tensor, affine: np.ndarray, image: MetaTensor) -> tuple[np.ndarray, str, bool]:
        """The affine of the registered CT, a line about the registration, and whether the CT fits."""
        if not self.register:
            return affine, "placed by the affines of both scans", True
        try:
            found: Registration = register_rigid(
                ct.numpy(), affine, image.as_tensor()[0].numpy(), working_affine(image), 2,
                thickness_to_spacing(image, self.slice_thickness_mm), least_overlap=self.min_overlap,
                similarity=mutual_information, least_value=TISSUE_LEVEL, search_mm=self.search_mm,
            )  # fmt: skip
        except ValueError as error:
            return affine, str(error), False
        line = (
            f"registered by {found.shift_mm:.1f} mm and {found.rotation_degrees:.1f} degrees, mutual information "
            f"{found.similarity:.3f}, {found.distinctness:.0%} less at the next best place"
        )
        if found.distinctness < self.min_distinctness:
            line = (
                f"the CT must fit at one place: mutual information at least {self.min_distinctness:.0%} less at the "
                f"next best one, got {found.distinctness:.0%}"
            )
            return affine, line, False
        # the registration maps points of the scan to points of the CT, so the CT is moved by its inverse
        return np.linalg.inv(found.matrix) @ affine, line, True


def guided_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **_: Any
) -> tuple:
    """MONAI's ``prepare_batch`` for inference: the image, the label if any, and the guide if any, on the device."""
    image, label, guide = (
        value.to(device=device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else None
        for value in (batch.get(key) for key in ("image", "label", "guide"))
    )
    return image, label, () if guide is None else (guide,), {}
