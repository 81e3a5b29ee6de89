# SPDX-License-Identifier: Apache-2.0
"""The self-check: predict the gain on a scan from its own slices, find faults, and calibrate the error map."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ..degradation import SliceProfileOperator
from ..files import write_json
from ..geometry import SliceGrid
from ..inference.in_plane import in_plane_pairs
from ..inference.inferer import ThroughPlaneInferer
from ..intensity import TISSUE_LEVEL
from ..networks.interpolation import interpolate_cubic
from ..reasons import CaseError, Reason
from ..transforms.consistency import in_plane_noise_sigma, noise_to_signal, scan_operator
from ..transforms.orient import padding_of, slice_grid, thickness_to_spacing
from .judgement import GAIN_REGION, Judgement, changes_in_scan, conformal_factor, judge, renew_noise
from .numbers import NUMBERS, UNPREDICTABLE, flags, measure, with_limits

__all__ = ["SaveQualityd", "SelfCheck", "SelfCheckd"]

POLICIES = ("warn", "cubic", "refuse")


class SelfCheck(Transform):
    """Judge a result by the slices of its scan.

    Args:
        inferer: the inferer that has made the result; it provides the same network in the same precision.
        device: device of the network.
        when_worse: what happens if cubic interpolation with data consistency would be nearer the truth, or if the
            slices do not fit together, so that no prediction is possible: ``warn`` keeps the result, ``cubic``
            replaces it by that interpolation, ``refuse`` makes it an error.
        limits: ``{"at_most": x}`` or ``{"at_least": x}`` for every number of :data:`scripts.quality.numbers.NUMBERS`.
        size: ``(rows, columns)`` of a patch.
        margin: columns on each side of a patch that serve to make thick slices and are not judged.
        patches: the most patches.
        cost: the most thick pixels in all patches, as a share of those of the inference.
        coverage: share of the voxels whose error the calibrated error map covers.
        gain_exponent: the gain on the scan grows with what the network changes there, see
            :meth:`scripts.quality.judgement.Judgement.gain_over_cubic_db`.
        widening: slices K pixels thick show less fine detail in-plane than there is along the thick axis, so the
            interval is ``1 + widening (K - 2)`` times as wide as on the pairs (for K >= 2).
        profile: slice profile of the scan.
        slice_thickness_mm: overrides the header's thickness.
        seed: seed of the patches; the same scan and seed give the same numbers.

    Raises:
        ValueError: for an unknown policy, limits that are not those of the numbers, or sizes out of range.
    """

    def __init__(
        self,
        inferer: ThroughPlaneInferer,
        device: str | torch.device,
        when_worse: str,
        limits: Mapping[str, Mapping[str, float]],
        size: tuple[int, int],
        margin: int,
        patches: int,
        cost: float,
        coverage: float,
        gain_exponent: float,
        widening: float,
        profile: str,
        slice_thickness_mm: float | None = None,
        seed: int = 0,
    ) -> None:
        if when_worse not in POLICIES:
            raise ValueError(f"when_worse must be one of {POLICIES}, got {when_worse!r}; correct the id")
        if set(limits) != set(NUMBERS):
            raise ValueError(f"quality_limits must name {sorted(NUMBERS)}, got {sorted(limits)}; correct the id")
        if patches < 1 or not 0 < cost <= 1 or not 0 < coverage < 1 or min(widening, gain_exponent) < 0:
            raise ValueError(
                "patches must be >= 1, cost and coverage between 0 and 1, widening and gain_exponent >= 0, "
                f"got {patches}, {cost:g}, {coverage:g}, {widening:g} and {gain_exponent:g}; correct the id judge"
            )
        self.inferer = inferer
        self.device = device
        self.when_worse = when_worse
        self.limits = limits
        self.size = (int(size[0]), int(size[1]))
        self.margin = margin
        self.patches = patches
        self.cost = cost
        self.coverage = coverage
        self.gain_exponent = gain_exponent
        self.widening = widening
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.seed = seed
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(
        self, pred: torch.Tensor, image: MetaTensor, expected: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Judge one result, before data consistency.

        Args:
            pred: ``(1, H1, H2, n_thin)``, working axes, unit range.
            image: ``(1, H1, H2, n_slices)``, the scan.
            expected: on the grid of ``pred``, the absolute error that the network expects; scaled **in place** so that
                it is the half-width of an interval that holds ``coverage`` of the voxels.

        Returns:
            The result, or the cubic one if the policy says so; and the content of ``<case>_quality.json``.

        Raises:
            CaseError: ``WORSE_THAN_CUBIC``, with the policy ``refuse``.
        """
        judgement, patches = self._judge(image)
        numbers = with_limits(
            {**self._gains(judgement, pred, image), **measure(image.as_tensor()[0].cpu())}, self.limits
        )
        found = flags(numbers)
        misleading = [name for name in found if name in UNPREDICTABLE]
        worse = "gain_over_consistent_cubic_db" in found or "motion_pixels" in found
        cubic = worse and self.when_worse == "cubic"
        quality: dict[str, Any] = {
            "predicted_gain_db": None if misleading else numbers["gain_over_cubic_db"]["value"],
            "gain_region": GAIN_REGION,
            "withheld": f"the slices mislead ({', '.join(misleading)})" if misleading else None,
            "flags": found,
            "result": "cubic" if cubic else "network",
            "numbers": numbers,
            "patches": patches,
        }
        self._say(quality)
        if worse and self.when_worse == "refuse":
            raise CaseError(
                Reason.WORSE_THAN_CUBIC,
                f"the result must be better than cubic interpolation, got {', '.join(found)} beyond the limit of the "
                "self-check; look at the scan, or set when_worse to warn",
            )
        if expected is not None:
            quality["error_map"] = self._calibrate(expected, judgement, cubic, slice_grid(image).scale_factor)
        if cubic:
            positions = slice_grid(image).positions_tensor(pred.device)
            pred[0] = interpolate_cubic(image.as_tensor()[0].to(pred), positions)
        return pred, quality

    def _judge(self, image: MetaTensor) -> tuple[Judgement | None, int]:
        """Errors on pairs of the scan, and the number of pairs."""
        scan: MetaTensor = image.to(self.device)  # type: ignore[assignment]
        grid = SliceGrid.covering(self.size[1], slice_grid(image).scale_factor)
        tissue = int((image.as_tensor() > TISSUE_LEVEL).sum())
        count = int(self.cost * 2 * tissue / (self.size[0] * grid.n_slices))  # the inference computes every pixel twice
        draw = in_plane_pairs(scan, self.size, self.margin, self.profile, self.slice_thickness_mm, self.seed)
        operator = SliceProfileOperator(grid, self.profile, thickness_to_spacing(image, self.slice_thickness_mm))
        with torch.no_grad():
            pairs = draw(min(self.patches, max(1, count)), torch.arange(image.shape[-1]))
            pairs = renew_noise(pairs, operator, in_plane_noise_sigma(image.as_tensor()), self.seed)
            judgement = judge(
                self.inferer.applied, pairs, operator, noise_to_signal(image.as_tensor(), padding_of(image))
            )
        return judgement, len(pairs.image)

    def _gains(self, judgement: Judgement | None, pred: torch.Tensor, image: MetaTensor) -> dict[str, float | None]:
        nothing: dict[str, float | None] = {"gain_over_cubic_db": None, "gain_over_consistent_cubic_db": None}
        if judgement is None:
            return nothing
        volume = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
        operator = scan_operator(image, self.profile, self.slice_thickness_mm)
        eps = noise_to_signal(image.as_tensor(), padding_of(image))
        changes = changes_in_scan(volume[0], image.as_tensor()[0].to(volume), operator, eps)
        if changes is None:
            return nothing
        return {
            "gain_over_cubic_db": judgement.gain_over_cubic_db(changes, self.gain_exponent),
            "gain_over_consistent_cubic_db": judgement.gain_over_consistent_cubic_db(changes, self.gain_exponent),
        }

    def _calibrate(
        self, expected: torch.Tensor, judgement: Judgement | None, cubic: bool, scale_factor: float
    ) -> dict[str, Any] | None:
        if judgement is None or judgement.expected is None:
            return None
        error = judgement.consistent_cubic if cubic else judgement.network
        factor = conformal_factor(error.abs(), judgement.expected, self.coverage)
        factor *= 1 + self.widening * max(0.0, scale_factor - 2)
        expected *= factor
        return {"holds": "half-width of an interval", "coverage": self.coverage, "factor": factor}

    def _say(self, quality: Mapping[str, Any]) -> None:
        gain = quality["predicted_gain_db"]
        told = f"predicted gain over cubic {gain:+.2f} dB" if gain is not None else "no prediction"
        why = f"; beyond the limit: {', '.join(quality['flags'])}" if quality["flags"] else ""
        instead = "; cubic interpolation is written" if quality["result"] == "cubic" else ""
        self.logger.log(logging.WARNING if why else logging.INFO, "self-check: %s%s%s", told, why, instead)


class SelfCheckd(MapTransform):
    """Dictionary form of :class:`SelfCheck`.

    The findings go to ``data["quality"]``, and to the meta data of image and result, from which writers take them.

    Args:
        keys: keys of the result.
        image_key: key of the scan.
        error_key: key of the error map, which is used if it is there.
        enabled: if false, nothing is done.
        allow_missing_keys: as in MONAI.
        check: arguments of :class:`SelfCheck`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        error_key: str = "error",
        enabled: bool = True,
        allow_missing_keys: bool = False,
        **check: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.error_key = error_key
        self.enabled = enabled
        self.check = SelfCheck(**check)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Judge every key."""
        result = dict(data)
        image = result[self.image_key]
        for key in self.key_iterator(result) if self.enabled else ():
            result[key], result["quality"] = self.check(result[key], image, result.get(self.error_key))
            image.meta["quality"] = result["quality"]
        return result


class SaveQualityd(MapTransform):
    """Write ``data["quality"]``, if it is there, to ``<case>_quality.json``, completely or not at all.

    Args:
        keys: keys of the result, whose meta data names the case.
        output_dir: folder of the file.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file of every key."""
        for key in self.key_iterator(data) if "quality" in data else ():
            case = str(data[key].meta["filename_or_obj"]).removesuffix(".nii.gz")
            write_json(self.output_dir / f"{case}_quality.json", data["quality"], indent=2)
        return dict(data)
