# SPDX-License-Identifier: Apache-2.0
"""Choose the number of thin slices for each thick one (K)."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..geometry import check_target, choose_scale_factor
from ..reasons import CaseError, Reason
from .orient import working_spacing_mm

__all__ = ["ChooseGridd"]


class ChooseGridd(MapTransform):
    """Choose K for each oriented scan and store it in ``meta["scale_factor"]``; see :func:`choose_scale_factor`.

    Args:
        keys: oriented scans.
        target_spacing_mm: thin spacing in mm, or ``isotropic``.
        scale_factor: K itself, or ``None``.
        max_scale_factor: largest K; a target spacing that needs a larger one gets this, with a warning.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the ids contradict each other.
    """

    def __init__(
        self,
        keys: KeysCollection,
        target_spacing_mm: float | str | None,
        scale_factor: float | None,
        max_scale_factor: float,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_target(target_spacing_mm, scale_factor, max_scale_factor)
        self.choice = (target_spacing_mm, scale_factor, max_scale_factor)
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Choose for every key.

        Raises:
            CaseError: ``ISOTROPIC`` if the slice spacing of the scan is not above the target.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image: MetaTensor = result[key]
            try:
                factor, why = choose_scale_factor(working_spacing_mm(image), *self.choice)
            except ValueError as error:
                raise CaseError(Reason.ISOTROPIC, str(error)) from error
            image.meta["scale_factor"] = factor
            self.logger.log(logging.WARNING if why.startswith("limited") else logging.INFO, "slice spacing %s", why)
        return result
