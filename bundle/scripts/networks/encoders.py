# SPDX-License-Identifier: Apache-2.0
"""The encoders of CITNet: a content code that both modalities share, and a code of the modality's attributes.

After Huang et al., "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018, written from the paper's text.
"""

from __future__ import annotations

import torch
from torch import nn

from .layers import ReflectConv, ResidualBlock

__all__ = ["AttributeEncoder", "ContentEncoder"]


class ContentEncoder(nn.Sequential):
    """E^C encodes where structures are. Instance normalisation removes contrast and brightness.

    ``(B, 1, H, W)`` to ``(B, 4 * width, H / 4, W / 4)``.

    Args:
        width: channels of the first convolution.
        residual_blocks: number of residual blocks on the small grid.
    """

    def __init__(self, width: int, residual_blocks: int) -> None:
        layers: list[nn.Module] = [ReflectConv(1, width, 7, bias=False), nn.InstanceNorm2d(width), nn.ReLU()]
        for channels in (width, 2 * width):
            layers += [
                ReflectConv(channels, 2 * channels, 4, stride=2, bias=False),
                nn.InstanceNorm2d(2 * channels),
                nn.ReLU(),
            ]
        layers += [ResidualBlock(4 * width) for _ in range(residual_blocks)]
        super().__init__(*layers)


class AttributeEncoder(nn.Module):
    """E^A encodes how the modality shows the structures.

    It has no normalisation, which would remove exactly this. Global pooling removes the position.

    Args:
        width: channels of the first convolution.
        attribute_channels: length of the code, 8 in the paper.
    """

    def __init__(self, width: int, attribute_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [ReflectConv(1, width, 7), nn.ReLU()]
        for inside, outside in ((width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width)):
            layers += [ReflectConv(inside, outside, 4, stride=2), nn.ReLU()]
        layers += [ReflectConv(4 * width, 4 * width, 4, stride=2), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, attribute_channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, W)`` to ``(B, attribute_channels)``."""
        return self.head(self.features(image).mean(dim=(2, 3)))
