# SPDX-License-Identifier: Apache-2.0
"""GAN-CIRCLE: super-resolution by a cycle between low and high resolution. Unpaired, 2D.

Re-implementation from C. You et al., CT Super-Resolution GAN Constrained by the Identical, Residual, and Cycle Learning
Ensemble (GAN-CIRCLE), IEEE TMI 39(1), 2020, unsupervised form. G raises the resolution of ``x``, F lowers that of
``y``, with

    L = L_WGAN(G) + cycle (|F(G(x)) - x| + |G(F(y)) - y|) + identity |G(y) - y| + sparsity TV(G(x)).

G consists of twelve convolutions with a decreasing number of channels. All their outputs are concatenated and
compressed by 1 x 1 convolutions (network in network) into a reconstruction, which is a residual.

Differences from the paper: F is the table's operator, which all rows are given, and needs no critic or identity loss of
its own. The joint sparsifying term is TV of G(x) alone, because no paired image is known. The losses are L1, and the
sizes are smaller (in the table's JSON).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .adversarial import Critic
from .scan import InterpolatedInput, he_initialised, started_small
from .unpaired import Unpaired, UnpairedLearner

__all__ = ["CircleGenerator", "GANCircle"]


class _Body(nn.Module):
    def __init__(self, layers: int, features: int, least_features: int, compressed: int) -> None:
        super().__init__()
        # from `features` down to `least_features`, as in the paper's Table I
        widths = [round(features + (least_features - features) * i / max(1, layers - 1)) for i in range(layers)]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in zip([1, *widths], widths, strict=False)
        )
        self.compress = nn.Conv2d(sum(widths), compressed, 1)
        self.narrow = nn.Sequential(
            nn.Conv2d(sum(widths), compressed, 1), nn.LeakyReLU(0.1), nn.Conv2d(compressed, compressed, 3, padding=1)
        )
        he_initialised(self)
        self.tail = started_small(nn.Conv2d(2 * compressed, 1, 3, padding=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, seen = image, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            seen.append(x)
        dense = torch.cat(seen, dim=1)
        return self.tail(F.leaky_relu(torch.cat([self.compress(dense), self.narrow(dense)], dim=1), 0.1))


class CircleGenerator(InterpolatedInput):
    """G, the generator.

    Args:
        layers: number of convolutions.
        features: channels of the first convolution.
        least_features: channels of the last convolution.
        compressed: channels of each 1 x 1 convolution.
    """

    def __init__(self, layers: int, features: int, least_features: int, compressed: int) -> None:
        super().__init__(_Body(layers, features, least_features, compressed))

    def sharpen(self, low: torch.Tensor) -> torch.Tensor:
        """Apply G to an image on the thin grid."""
        return low + self.body(low)


class GANCircle(UnpairedLearner):
    """Train G with a critic and the cycle.

    Args:
        network: :class:`CircleGenerator`.
        cycle: weight of both cycles.
        identity: weight of the identity loss.
        sparsity: weight of TV.
        learner: further arguments of :class:`UnpairedLearner`.
    """

    name = "GAN-CIRCLE"

    def __init__(
        self,
        network: CircleGenerator,
        cycle: float,
        identity: float,
        sparsity: float,
        **learner: Any,
    ) -> None:
        super().__init__(network, **learner)
        self.cycle = cycle
        self.identity = identity
        self.sparsity = sparsity

    def loss(self, network: CircleGenerator, critic: Critic, batch: Unpaired) -> torch.Tensor:
        """See :class:`UnpairedLearner`."""
        made = network.sharpen(batch.x)
        critic.step(batch.y, made)
        cycle = F.l1_loss(batch.make_thick(made.float()), batch.thick)
        cycle = cycle + F.l1_loss(network.sharpen(batch.low_y), batch.y)
        variation = sum(made.diff(dim=axis).abs().mean() for axis in (2, 3))
        return (
            self.adversarial_weight * critic.fool(made)
            + self.cycle * cycle
            + self.identity * F.l1_loss(network.sharpen(batch.y), batch.y)
            + self.sparsity * variation
        )
