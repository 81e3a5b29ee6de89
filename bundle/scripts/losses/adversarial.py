# SPDX-License-Identifier: Apache-2.0
"""Eq. 5 and 6, L_adv: the game between one discriminator and the networks that translate images.

A multi-scale discriminator consists of several discriminators. The loss of each is a mean over its patches, and the
losses are added. Discriminators return logits ``z`` with ``D = sigmoid(z)``. Written as ``log D = -softplus(-z)`` and
``log(1 - D) = -softplus(z)``, the logarithms never overflow.

Eq. 5 also contains ``log D_X(x~_H)``, and SRNet makes x~_H. :meth:`AdversarialLoss.generator_real` is this term as the
generators minimise it. It teaches SRNet to make images that look translated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["ADVERSARIAL_FORMS", "AdversarialLoss"]

ADVERSARIAL_FORMS = ("log", "non_saturating", "least_squares")


class AdversarialLoss(nn.Module):
    """The losses of discriminator and generator, both to be minimised.

    ===================  ======================================  ============================  ======================
    form                 discriminator                           generator                     generator, real images
    ===================  ======================================  ============================  ======================
    ``log``              ``-log D(real) - log(1 - D(fake))``     ``log(1 - D(fake))`` (paper)  ``log D(real)`` (paper)
    ``non_saturating``   the same                                ``-log D(fake)``              ``-log(1 - D(real))``
    ``least_squares``    ``(z(real) - 1)^2 + z(fake)^2``         ``(z(fake) - 1)^2``           ``z(real)^2``
    ===================  ======================================  ============================  ======================

    Args:
        form: one of the forms in the table.

    Raises:
        ValueError: for any other form.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        if form not in ADVERSARIAL_FORMS:
            raise ValueError(f"adversarial_form must be one of {ADVERSARIAL_FORMS}, got {form!r}; correct the id")
        self.form = form

    def discriminator(self, real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
        """Loss of the discriminator, from its logits per scale (any shape)."""
        if self.form == "least_squares":
            return _sum((r - 1).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True))
        return _sum(F.softplus(-r).mean() + F.softplus(f).mean() for r, f in zip(real, fake, strict=True))

    def generator(self, fake: Sequence[torch.Tensor]) -> torch.Tensor:
        """Loss of the generator, from the discriminator's logits per scale."""
        if self.form == "least_squares":
            return _sum((f - 1).square().mean() for f in fake)
        if self.form == "non_saturating":
            return _sum(F.softplus(-f).mean() for f in fake)
        return _sum(-F.softplus(f).mean() for f in fake)

    def generator_real(self, real: Sequence[torch.Tensor]) -> torch.Tensor:
        """Term of the real images in the loss of the network that makes them, from the logits per scale."""
        if self.form == "least_squares":
            return _sum(r.square().mean() for r in real)
        if self.form == "non_saturating":
            return _sum(F.softplus(r).mean() for r in real)
        return _sum(-F.softplus(-r).mean() for r in real)

    def accuracy(self, real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
        """Share of patches that the discriminator classifies correctly: 0.5 is chance, 1.0 is perfect."""
        border = 0.5 if self.form == "least_squares" else 0.0
        right = [r > border for r in real] + [f < border for f in fake]
        return torch.cat([r.flatten() for r in right]).float().mean()


def _sum(losses: object) -> torch.Tensor:
    return torch.stack(list(losses)).sum()  # type: ignore[call-overload]
