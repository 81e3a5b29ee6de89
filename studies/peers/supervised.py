# SPDX-License-Identifier: Apache-2.0
"""Supervised rows: networks that train on high-resolution MR, which our method does not need.

``rdn_supervised`` is the residual dense network of Zhang et al., CVPR 2018, as the bundle defines it (the paper's own
supervised row); ``reconresnet`` is :mod:`studies.peers.reconresnet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scripts.degradation import SliceProfileOperator
from torch import nn

from .learner import PairLearner

__all__ = ["Supervised"]


class Supervised(PairLearner):
    """Train a network on pairs made from (near-)isotropic volumes.

    Args:
        network: see :class:`PairLearner`.
        row_spacing_mm: range of the pixel spacing in-plane, as in the bundle.
        thin_spacing_mm: range of the spacing of the thin slices, as in the bundle.
        learner: further arguments of :class:`PairLearner`.
    """

    def __init__(
        self, network: nn.Module, row_spacing_mm: Sequence[float], thin_spacing_mm: Sequence[float], **learner: Any
    ) -> None:
        super().__init__(network, **learner)
        self.spacings = {"row_spacing_mm": row_spacing_mm, "column_spacing_mm": thin_spacing_mm}

    def train(
        self,
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        operator: SliceProfileOperator,
        budget_s: float,
        seed: int,
        device: torch.device,
        autocast: str | None,
    ) -> nn.Module:
        """Learn from ``(1, I, J, K)`` HR volumes in unit range and their spacing in mm; return the network."""
        return self.learn(volumes, operator, budget_s, seed, device, autocast, planes="any", **self.spacings)
