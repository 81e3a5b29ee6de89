# SPDX-License-Identifier: Apache-2.0
"""D_X and D_Y judge whether an image comes from the MR or CT domain, per patch and at several scales."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .layers import ReflectConv

__all__ = ["DiscriminatorPair", "MultiScaleDiscriminator"]


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator per scale, without normalisation. Each scale halves the size of the image.

    Args:
        width: channels of the first layer; every further layer doubles them.
        layers: convolutions of stride 2.
        scales: number of discriminators.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, width: int, layers: int, scales: int) -> None:
        super().__init__()
        for name, value in (("width", width), ("layers", layers), ("scales", scales)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}; correct discriminators_def")
        self.least_size = 2 ** (layers + scales - 1)
        self.scales = nn.ModuleList(_patch_discriminator(width, layers) for _ in range(scales))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Judge whether an image is of this domain.

        Args:
            image: ``(B, 1, H, W)``.

        Returns:
            One tensor of logits per scale, ``(B, 1, h, w)``; positive means "of this domain".

        Raises:
            ValueError: if the image is too small for the smallest scale.
        """
        if min(image.shape[2], image.shape[3]) < self.least_size:
            raise ValueError(
                f"height and width must be >= {self.least_size} for this discriminator, got {list(image.shape[2:])}; "
                "use larger patches or fewer discriminators_def::scales"
            )
        logits: list[torch.Tensor] = []
        for index, discriminator in enumerate(self.scales):
            if index > 0:
                image = F.avg_pool2d(image, kernel_size=3, stride=2, padding=1, count_include_pad=False)
            logits.append(discriminator(image))
        return logits


def _patch_discriminator(width: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    channels = 1
    for layer in range(layers):
        parts += [ReflectConv(channels, width * 2**layer, 4, stride=2), nn.LeakyReLU(0.2)]
        channels = width * 2**layer
    return nn.Sequential(*parts, ReflectConv(channels, 1, 1))


class DiscriminatorPair(nn.Module):
    """D_X (``mr``) and D_Y (``ct``) as one module, so that one optimiser and one DDP wrapper hold both.

    Args:
        width: see :class:`MultiScaleDiscriminator`.
        layers: see :class:`MultiScaleDiscriminator`.
        scales: see :class:`MultiScaleDiscriminator`.
    """

    def __init__(self, width: int, layers: int, scales: int) -> None:
        super().__init__()
        self.mr = MultiScaleDiscriminator(width, layers, scales)
        self.ct = MultiScaleDiscriminator(width, layers, scales)

    def forward(self, mr: torch.Tensor, ct: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits of D_X for ``mr`` and of D_Y for ``ct``."""
        return self.mr(mr), self.ct(ct)
