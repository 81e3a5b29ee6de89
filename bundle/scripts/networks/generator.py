# SPDX-License-Identifier: Apache-2.0
"""G makes an image of one modality from a content code and an attribute code of that modality."""

from __future__ import annotations

import torch
from torch import nn

from .layers import AdaptiveResidualBlock, ReflectConv, UpsampleConv

__all__ = ["Generator"]


class Generator(nn.Module):
    """A small perceptron turns the attribute code into the scale and shift of every residual block (AdaIN).

    Args:
        width: channels of the last layer; the content code has four times as many.
        attribute_channels: length of the attribute code.
        residual_blocks: number of residual blocks.
        perceptron_width: hidden width of the perceptron, 256 in MUNIT.
    """

    def __init__(self, width: int, attribute_channels: int, residual_blocks: int, perceptron_width: int) -> None:
        super().__init__()
        channels = 4 * width
        self.style_shape = [residual_blocks, 2, 2, channels]  # block, normalisation, scale or shift, channel
        styles = nn.Linear(perceptron_width, residual_blocks * 2 * 2 * channels)
        bias = torch.zeros(self.style_shape)
        bias[:, :, 0] = 1
        styles.bias = nn.Parameter(bias.flatten())  # start near plain instance normalisation: scale 1, shift 0
        self.perceptron = nn.Sequential(
            nn.Linear(attribute_channels, perceptron_width),
            nn.ReLU(),
            nn.Linear(perceptron_width, perceptron_width),
            nn.ReLU(),
            styles,
        )
        self.blocks = nn.ModuleList(AdaptiveResidualBlock(channels) for _ in range(residual_blocks))
        self.image = nn.Sequential(
            UpsampleConv(channels, channels // 2),
            nn.GroupNorm(1, channels // 2),  # layer normalisation over (C, H, W) with one scale and shift per channel
            nn.ReLU(),
            UpsampleConv(channels // 2, channels // 4),
            nn.GroupNorm(1, channels // 4),
            nn.ReLU(),
            ReflectConv(width, 1, 7),
            nn.Tanh(),
        )

    def forward(self, content: torch.Tensor, attribute: torch.Tensor) -> torch.Tensor:
        """Make an image.

        Args:
            content: ``(B, 4 * width, H / 4, W / 4)``.
            attribute: ``(B, attribute_channels)``.

        Returns:
            ``(B, 1, H, W)`` in (-1, 1).
        """
        styles = self.perceptron(attribute).reshape([len(attribute)] + self.style_shape)
        for index, block in enumerate(self.blocks):
            content = block(content, styles[:, index])
        return self.image(content)
