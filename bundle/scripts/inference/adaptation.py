# SPDX-License-Identifier: Apache-2.0
"""Adapt the network to one patient: a few self-supervised steps on the scan, which are kept only if they help.

Within its slices, a thick-slice scan has high resolution. Patches of its slices are made thick along an in-plane axis,
at the pixel spacing that the thin slices will have and with the scan's own slice profile, and the network learns to
undo that (the ``inplane`` variant of stage 2, on one scan). Every ``holdout``-th slice takes no part in this and serves
to judge the adapted network. If it does not gain enough there, the scan is super-resolved with the original weights.

Only the error that data consistency leaves counts, so that no step is spent on what it corrects anyhow.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn

from ..degradation import SliceProfileOperator
from ..geometry import SliceGrid
from ..transforms.consistency import noise_to_signal
from ..transforms.orient import padding_of, slice_grid, thickness_to_spacing
from .in_plane import Pairs, in_plane_pairs

__all__ = ["InPlaneAdaptation"]


class InPlaneAdaptation:
    """Callable for :class:`scripts.inference.inferer.ThroughPlaneInferer`: ``(network, scan) -> network``.

    Args:
        iterations: number of optimiser steps; 0 switches adaptation off.
        learning_rate: learning rate of Adam at the first step; it falls to zero along a cosine.
        batch_size: patches per step.
        size: ``(rows, columns)`` of the target patch.
        margin: columns on each side that serve to make thick slices and are not part of the target.
        holdout: every ``holdout``-th slice is held out for judging.
        check_patches: number of patches drawn from the held-out slices.
        consistency: data consistency of the result: ``exact``, ``regularised`` or ``off``, see
            :class:`scripts.transforms.consistency.DataConsistency`.
        least_gain_db: gain on the held-out slices that the adapted network needs to be used. It is measured in-plane;
            along the thick axis the gain is smaller, so a network that gains almost nothing in-plane may lose there.
        profile: slice profile of the scan.
        slice_thickness_mm: overrides the header's thickness.
        seed: seed of the patches; the same scan, seed and machine give the same weights.
        autocast: dtype name for mixed precision in the steps, or ``None``; the judgement is always in float32.
            Gradients are not scaled, so ``float16`` is not suitable.

    Raises:
        ValueError: if a count is out of range.
    """

    def __init__(
        self,
        iterations: int,
        learning_rate: float,
        batch_size: int,
        size: tuple[int, int],
        margin: int,
        holdout: int,
        check_patches: int,
        consistency: str,
        least_gain_db: float,
        profile: str = "gaussian",
        slice_thickness_mm: float | None = None,
        seed: int = 0,
        autocast: str | None = None,
    ) -> None:
        if iterations < 0:
            raise ValueError(f"adapt_iterations must be >= 0, got {iterations}; 0 switches adaptation off")
        if min(batch_size, check_patches) < 1 or holdout < 2:
            raise ValueError(
                "batch size and check patches must be >= 1 and holdout >= 2, "
                f"got {batch_size}, {check_patches} and {holdout}; correct the adaptation"
            )
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.size = size
        self.margin = margin
        self.holdout = holdout
        self.check_patches = check_patches
        self.consistency = consistency
        self.least_gain_db = least_gain_db
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.seed = seed
        self.autocast = autocast
        self.logger = logging.getLogger(type(self).__name__)

    def __call__(self, network: Callable[..., torch.Tensor], scan: torch.Tensor) -> Callable[..., torch.Tensor]:
        """Adapt a copy of the network.

        Args:
            network: SRNet; never changed.
            scan: ``(1, 1, H1, H2, n_slices)`` in unit range, with the meta data of
                :class:`scripts.transforms.orient.OrientThickAxisLast`.

        Returns:
            The adapted copy, or ``network`` itself if the gain on the held-out slices is too small.

        Raises:
            TypeError: if the network cannot be trained, or the scan has no meta data.
        """
        if self.iterations == 0:
            return network
        if not isinstance(network, nn.Module) or not any(p.requires_grad for p in network.parameters()):
            raise TypeError("network must be a trainable torch module for adaptation; set adapt_iterations to 0")
        if not isinstance(scan, MetaTensor):
            raise TypeError("scan must be a MetaTensor for adaptation, got a plain tensor; set adapt_iterations to 0")
        draw, judge = self._pairs(scan)
        left = self._left_by_consistency(scan)
        check = judge(self.check_patches)
        before = self._loss(network, check, left)
        adapted = copy.deepcopy(network)
        optimizer = torch.optim.Adam(adapted.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        with torch.enable_grad():
            for _ in range(self.iterations):
                optimizer.zero_grad()
                pairs = draw(self.batch_size)
                with torch.autocast(
                    scan.device.type, getattr(torch, self.autocast or "bfloat16"), enabled=self.autocast is not None
                ):
                    output = adapted(pairs.image, pairs.positions, pairs.condition)
                error = _mean_square(left, output, pairs.label)  # outside, because it takes float32 to correct
                error.backward()
                optimizer.step()
                schedule.step()
        after = self._loss(adapted, check, left)
        kept = after < before * 10 ** (-self.least_gain_db / 10)
        self.logger.info(
            "adaptation: %d steps, error on held-out slices %.3e -> %.3e; %s",
            self.iterations, before, after, "kept" if kept else "original weights kept",
        )  # fmt: skip
        return adapted if kept else network

    def _pairs(self, scan: MetaTensor) -> tuple[Callable[[int], Pairs], Callable[[int], Pairs]]:
        """Two sources of pairs: one for training, one for judging."""
        draw = in_plane_pairs(
            _without_batch(scan),
            self.size,
            self.margin,
            self.profile,
            self.slice_thickness_mm,
            self.seed,
        )
        slices = torch.arange(scan.shape[-1])
        judges = slices % self.holdout == self.holdout // 2
        return partial(draw, slices=slices[~judges]), partial(draw, slices=slices[judges])

    def _left_by_consistency(self, scan: MetaTensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """What data consistency leaves of an error ``(..., columns)``; at the ends of a patch, profiles are cut off."""
        if self.consistency == "off":
            return lambda error: error
        image = _without_batch(scan)
        grid = SliceGrid.covering(self.size[1], slice_grid(image).scale_factor)
        operator = SliceProfileOperator(grid, self.profile, thickness_to_spacing(image, self.slice_thickness_mm))
        eps = 0.0 if self.consistency == "exact" else noise_to_signal(image.as_tensor(), padding_of(image))
        return partial(operator.left_by_enforce, eps=eps)

    def _loss(
        self, network: Callable[..., torch.Tensor], pairs: Pairs, left: Callable[[torch.Tensor], torch.Tensor]
    ) -> float:
        image, label, positions, condition = pairs
        with torch.no_grad():
            errors = [
                float(_mean_square(left, network(i, positions, c), b)) * len(i)
                for i, b, c in zip(*(part.split(self.batch_size) for part in (image, label, condition)), strict=True)
            ]
        return float(np.sum(errors)) / len(image)


def _mean_square(
    left: Callable[[torch.Tensor], torch.Tensor], output: torch.Tensor, label: torch.Tensor
) -> torch.Tensor:
    return left(output[:, :1].float() - label).square().mean()


def _without_batch(scan: MetaTensor) -> MetaTensor:
    return MetaTensor(scan.as_tensor()[0], meta=scan.meta)
