# SPDX-License-Identifier: Apache-2.0
"""Eq. 7, L_disentangle: the loss that encoders, generators and SRNet share, with anchors that go beyond the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ..networks.citnet import Translation
from .adversarial import AdversarialLoss
from .cross_cycle import CrossCycleLoss
from .data_consistency import DataConsistencyLoss
from .latent import LatentLoss
from .perceptual import PerceptualLoss
from .self_reconstruction import SelfReconstructionLoss
from .translated import TranslatedPairsLoss

__all__ = ["DisentanglementLoss", "Objective"]


class Objective(NamedTuple):
    """What :class:`DisentanglementLoss` returns.

    Attributes:
        total: the weighted sum.
        weighted: the weighted terms of this sum: ``adv``, ``self``, ``cycle``, ``latent``, ``percep``,
            ``consistency``, ``ct_l1``, ``translated``. Terms that are switched off are missing.
        terms: every term before weighting, for example ``cycle_mr``.
    """

    total: torch.Tensor
    weighted: dict[str, torch.Tensor]
    terms: dict[str, torch.Tensor]


class DisentanglementLoss(nn.Module):
    """``L_adv + lambda_1 (L_self + L_cycle) + lambda_2 L_latent + lambda_3 L_percep``, plus anchors.

    L_self and L_cycle compare with an image that SRNet itself makes. The anchors therefore tie SRNet to known images:
    ``lambda_consistency ||D(x~_H) - x_L||_1 + lambda_ct ||F(D(y_H)) - y_H||_1``. Translated pairs give SRNet sharp
    targets that look like MR: ``lambda_translated ||F(D(x')) - x'||_1``.

    Args:
        adversarial: Eq. 5 and 6.
        perceptual: Eq. 4, or ``None`` to switch it off.
        data_consistency: loss of the first anchor; not used if ``lambda_consistency`` is 0.
        lambda_self: lambda_1, as the weight of L_self.
        lambda_cycle: lambda_1, as the weight of L_cycle.
        lambda_latent: lambda_2.
        lambda_percep: lambda_3.
        lambda_consistency: weight of the first anchor; 0 leaves it out.
        lambda_ct: weight of the second anchor; 0 leaves it out.
        detach_targets: whether x~_H is detached where it is the target of a comparison (Eq. 1, 2, 4).
        judge_super_resolved: whether SRNet minimises ``log D_X(x~_H)`` of Eq. 5 too.
        translated: loss of the pairs made from x'; not used if ``lambda_translated`` is 0.
        lambda_translated: weight of these pairs; 0 leaves them out.

    Raises:
        ValueError: if a weight is negative, or if a weight is positive and its loss is missing.
    """

    def __init__(
        self,
        adversarial: AdversarialLoss,
        perceptual: PerceptualLoss | None,
        data_consistency: DataConsistencyLoss | None,
        lambda_self: float,
        lambda_cycle: float,
        lambda_latent: float,
        lambda_percep: float,
        lambda_consistency: float,
        lambda_ct: float,
        detach_targets: bool,
        judge_super_resolved: bool,
        translated: TranslatedPairsLoss | None = None,
        lambda_translated: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = {
            "adv": 1.0,
            "self": lambda_self,
            "cycle": lambda_cycle,
            "latent": lambda_latent,
            "percep": lambda_percep,
            "consistency": lambda_consistency,
            "ct_l1": lambda_ct,
            "translated": lambda_translated,
        }
        for name, weight in self.weights.items():
            if not weight >= 0:
                raise ValueError(f"the weight of {name} must be >= 0, got {weight}; correct the lambda")
        needed = {"percep": perceptual, "consistency": data_consistency, "translated": translated}
        for name, loss in needed.items():
            if self.weights[name] > 0 and loss is None:
                raise ValueError(f"lambda_{name} must be 0 without a loss for it, got {self.weights[name]}; add one")
        self.adversarial = adversarial
        self.self_reconstruction = SelfReconstructionLoss()
        self.cross_cycle = CrossCycleLoss()
        self.latent = LatentLoss()
        self.perceptual = perceptual
        self.data_consistency = data_consistency
        self.translated = translated
        self.detach_targets = detach_targets
        self.judge_super_resolved = judge_super_resolved

    def forward(
        self,
        made: Translation,
        mr: torch.Tensor,
        ct: torch.Tensor,
        fake_mr: Sequence[torch.Tensor],
        fake_ct: Sequence[torch.Tensor],
        real_mr: Sequence[torch.Tensor] | None = None,
        mr_thick: torch.Tensor | None = None,
        mr_told: tuple[torch.Tensor, torch.Tensor] | None = None,
        ct_restored: torch.Tensor | None = None,
        translated: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Objective:
        """Evaluate Eq. 7.

        Args:
            made: result of CITNet for the next two images.
            mr: x~_H, ``(B, 1, H, W)``.
            ct: y_H, same shape.
            fake_mr: logits of D_X for x', per scale.
            fake_ct: logits of D_Y for y', per scale.
            real_mr: logits of D_X for x~_H, needed only with ``judge_super_resolved``.
            mr_thick: x_L, for the first anchor; ``None`` leaves it out.
            mr_told: positions and conditions that SRNet was given for x_L, needed with ``mr_thick``.
            ct_restored: F(D(y_H)), for the second anchor; ``None`` leaves it out.
            translated: F(D(x')) and x'; ``None`` leaves the pairs out.
        """
        target = mr.detach() if self.detach_targets else mr
        adversarial = {"mr": self.adversarial.generator(fake_mr), "ct": self.adversarial.generator(fake_ct)}
        if self.judge_super_resolved:
            assert real_mr is not None
            adversarial["mr_real"] = self.adversarial.generator_real(real_mr)
        groups = {
            "adv": adversarial,
            "self": self.self_reconstruction(made.mr_self, target, made.ct_self, ct),
            "cycle": self.cross_cycle(made.mr_cycle, target, made.ct_cycle, ct),
            "latent": self.latent(
                made.content_mr_again,
                made.content_mr,
                made.content_ct_again,
                made.content_ct,
                made.attribute_mr_again,
                made.attribute_mr,
                made.attribute_ct_again,
                made.attribute_ct,
            ),
        }
        if self.perceptual is not None and self.weights["percep"] > 0:
            groups["percep"] = self.perceptual(made.mr_to_ct, target, made.ct_to_mr, ct)
        if self.data_consistency is not None and self.weights["consistency"] > 0 and mr_thick is not None:
            assert mr_told is not None
            groups["consistency"] = {"mr": self.data_consistency(mr, mr_thick, *mr_told)}
        if self.weights["ct_l1"] > 0 and ct_restored is not None:
            groups["ct_l1"] = {"ct": F.l1_loss(ct_restored, ct)}
        if self.translated is not None and self.weights["translated"] > 0 and translated is not None:
            groups["translated"] = self.translated(*translated, ct)
        weighted = {name: self.weights[name] * torch.stack(list(g.values())).sum() for name, g in groups.items()}
        terms = {f"{name}_{part}": value for name, g in groups.items() for part, value in g.items()}
        return Objective(torch.stack(list(weighted.values())).sum(), weighted, terms)
