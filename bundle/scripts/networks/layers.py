# SPDX-License-Identifier: Apache-2.0
"""Layers of CITNet that torch does not have."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["AdaptiveResidualBlock", "ReflectConv", "ResidualBlock", "UpsampleConv", "adaptive_instance_norm"]


class ReflectConv(nn.Conv2d):
    """Convolution with reflect padding such that stride 1 keeps the size and stride 2 halves an even size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd with stride 1, even with stride 2.
        stride: 1 or 2.
        bias: false before a normalisation per channel, which removes the bias again. Its gradient would be rounding
            noise, which Adam would amplify.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True
    ) -> None:
        padding = (kernel_size - 1) // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias, padding_mode="reflect")
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ResidualBlock(nn.Module):
    """``x + IN(conv(relu(IN(conv(x)))))`` with 3x3 convolutions.

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReflectConv(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            ReflectConv(channels, channels, 3, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the same shape."""
        return x + self.body(x)


def adaptive_instance_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """AdaIN (Huang and Belongie, ICCV 2017): ``scale * (x - mean(x)) / std(x) + shift``, with statistics per image.

    Args:
        x: ``(B, C, H, W)``.
        scale: ``(B, C)``, the standard deviation of each channel of the result.
        shift: ``(B, C)``, its mean.
    """
    return scale[:, :, None, None] * F.instance_norm(x) + shift[:, :, None, None]


class AdaptiveResidualBlock(nn.Module):
    """:class:`ResidualBlock` whose two normalisations take their scale and shift as an input.

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = ReflectConv(channels, channels, 3, bias=False)
        self.conv_2 = ReflectConv(channels, channels, 3, bias=False)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Restyle the features.

        Args:
            x: ``(B, C, H, W)``.
            style: ``(B, 2, 2, C)``: first or second normalisation, scale or shift, channel.

        Returns:
            ``(B, C, H, W)``.
        """
        y = F.relu(adaptive_instance_norm(self.conv_1(x), style[:, 0, 0], style[:, 0, 1]))
        return x + adaptive_instance_norm(self.conv_2(y), style[:, 1, 0], style[:, 1, 1])


class UpsampleConv(nn.Module):
    """Nearest-neighbour upsampling by two and a 5x5 convolution, computed on the small grid.

    The upsampled image holds every value four times, so each of the four output phases sees only 3x3 different pixels.
    The 25 weights are summed into 9 per phase, and one 3x3 convolution on the small grid gives all four phases. The
    parameters and the result are the same, with 9 instead of 25 products per output pixel. Padding reflects the small
    grid.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    fold: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 5, 5))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        # row a of phase p: the taps of a 5-tap filter that fall on small-grid pixel i + a - 1 at position 2 i + p
        even = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
        odd = [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
        self.register_buffer("fold", torch.tensor([even, odd], dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to ``(B, C', 2H, 2W)``."""
        weight = torch.einsum("pai,ocij,qbj->opqcab", self.fold, self.weight, self.fold)
        phases = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight.flatten(0, 2))
        return F.pixel_shuffle(phases, 2) + self.bias[:, None, None]
