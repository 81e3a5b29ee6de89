# SPDX-License-Identifier: Apache-2.0
"""UASSR: content and resolution of an image, disentangled. Unpaired, 2D, any real K.

Re-implementation from the public parts of J. Wang et al., UASSR: Unsupervised Arbitrary Scale Super-resolution
Reconstruction of Single Anisotropic 3D Images via Disentangled Representation Learning, MICCAI 2022, and from the paper
of this bundle, in which the same first author built CITNet from the same parts: a content encoder that low and high
resolution share, an encoder for a short resolution code, and a generator that combines the two. Content of low
resolution with a code of high resolution gives the super-resolved image. The losses are self-reconstruction,
cross-cycle, recovery of content and code after the exchange, and a critic for the super-resolved images. One network
learns all K of a range.

Differences from the paper: degradation is the table's operator, which all rows are given, instead of a generated one.
The generator adds detail of the content, at the resolution of the code, to the low-resolution image. After training,
the code is the mean over the thin patches (``high_code``). The sizes are our own, because the paper's are not public.
"""

from __future__ import annotations

from typing import Any

import torch
from scripts.networks.interpolation import interpolate_cubic
from torch import nn
from torch.nn import functional as F

from .adversarial import Critic
from .minet import residual_stage
from .scan import started_small
from .unpaired import Unpaired, UnpairedLearner

__all__ = ["UASSR", "DisentangledNetwork"]


class DisentangledNetwork(nn.Module):
    """Content encoder, code encoder and generator.

    Args:
        features: channels of the features.
        content_blocks: number of residual blocks of the content encoder.
        blocks: number of residual blocks of the generator, each scaled and shifted by the code.
        code_length: length of the resolution code.
    """

    high_code: torch.Tensor

    def __init__(self, features: int, content_blocks: int, blocks: int, code_length: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, features, 3, padding=1)
        self.content_blocks = nn.ModuleList(residual_stage(features) for _ in range(content_blocks))
        self.code_body = nn.Sequential(
            nn.Conv2d(1, features, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(features, features, 4, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(features, code_length, 1),
        )  # fmt: skip
        self.blocks = nn.ModuleList(residual_stage(features) for _ in range(blocks))
        self.modulate = nn.Linear(code_length, blocks * 2 * features)
        self.tail = started_small(nn.Conv2d(features, 1, 3, padding=1))
        self.register_buffer("high_code", torch.zeros(1, code_length))

    def content(self, image: torch.Tensor) -> torch.Tensor:
        """E^C: ``(B, 1, H, N)`` to ``(B, F, H, N)``."""
        x = self.head(image)
        for block in self.content_blocks:
            x = x + block(x)
        return x

    def code(self, image: torch.Tensor) -> torch.Tensor:
        """E^A: ``(B, 1, H, N)`` to ``(B, code_length)``."""
        return self.code_body(image).flatten(1)

    def generate(self, low: torch.Tensor, content: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """G: the image with this content, at the resolution of the code; ``low`` is its low-resolution version."""
        scale_shift = self.modulate(code).unflatten(1, (len(self.blocks), 2, -1))[..., None, None]
        x = content
        for index, block in enumerate(self.blocks):
            x = x + block(x * (1 + scale_shift[:, index, 0]) + scale_shift[:, index, 1])
        return low + self.tail(x)

    def forward(self, image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, n)`` to ``(B, 1, H, N)`` at the positions; the condition is not used."""
        cubic = interpolate_cubic(image, positions)
        return self.generate(cubic, self.content(cubic), self.high_code.expand(len(cubic), -1))


class UASSR(UnpairedLearner):
    """Train the network with exchanged codes.

    Args:
        network: :class:`DisentangledNetwork`.
        latent: weight of the latent reconstruction.
        learner: further arguments of :class:`UnpairedLearner`.
    """

    name = "UASSR"

    def __init__(self, network: DisentangledNetwork, latent: float, **learner: Any) -> None:
        super().__init__(network, **learner)
        self.latent = latent

    def loss(self, network: DisentangledNetwork, critic: Critic, batch: Unpaired) -> torch.Tensor:
        """See :class:`UnpairedLearner`."""
        x, y, low_y = batch.x, batch.y, batch.low_y
        content_x, content_y, content_low = network.content(x), network.content(y), network.content(low_y)
        code_x, code_y = network.code(x), network.code(y)
        high = network.high_code = (0.99 * network.high_code + 0.01 * code_y.detach().mean(0)).float()
        own = F.l1_loss(network.generate(x, content_x, code_x), x)
        own = own + F.l1_loss(network.generate(low_y, content_y, code_y), y)
        made = network.generate(x, content_x, high.expand(len(x), -1))
        critic.step(y, made)
        cycle = F.l1_loss(batch.make_thick(made.float()), batch.thick)
        cycle = cycle + F.l1_loss(network.generate(low_y, content_low, high.expand(len(y), -1)), y)
        latent = F.l1_loss(content_low, content_y.detach()) + F.l1_loss(network.code(made), code_y.detach())
        return own + cycle + self.latent * latent + self.adversarial_weight * critic.fool(made)
