# SPDX-License-Identifier: Apache-2.0
"""The paper's SRNet: a residual dense network that multiplies the number of slices by a whole K (paper, section 2.1).

The network is that of Zhang et al., "Residual Dense Network for Image Super-Resolution", CVPR 2018, with two changes
for thick slices. The upsampling acts on one axis only (1 x K pixel shuffle), and the network predicts the difference
from cubic interpolation *on the same grid* (global skip). The symbols are those of that paper: D blocks of C layers,
growth G and G0 features.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .interpolation import interpolate_cubic

__all__ = ["RDN", "ResidualDenseBlock", "check_sizes", "default_positions", "shuffle_last_axis"]


def default_positions(image: torch.Tensor, scale_factor: int) -> torch.Tensor:
    """``(K n,)`` positions of the thin slices of ``(..., n)`` thick ones, for a whole K.

    These are the positions of :meth:`scripts.geometry.SliceGrid.over_slab`, for a network that is given only images.
    """
    return (torch.arange(image.shape[-1] * scale_factor, device=image.device) + 0.5) / scale_factor - 0.5


def shuffle_last_axis(features: torch.Tensor, scale_factor: int) -> torch.Tensor:
    """One-axis pixel shuffle: ``(B, K * C, H, W)`` to ``(B, C, H, K * W)``; channel ``c * K + p`` is phase ``p``."""
    b, ck, h, w = features.shape
    features = features.reshape(b, ck // scale_factor, scale_factor, h, w)
    return features.permute(0, 1, 3, 4, 2).reshape(b, ck // scale_factor, h, w * scale_factor)


def check_sizes(**sizes: int) -> None:
    """Demand that every size of a network is at least 1.

    Raises:
        ValueError: if one is not; the message names it.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}; correct network_def")


class ResidualDenseBlock(nn.Module):
    """C convolutions, each of which sees all features before it, then a 1x1 convolution, plus the identity.

    Args:
        features: G0, channels of the input and of the output.
        growth: G, channels that each convolution adds.
        layers: C.
    """

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(features + i * growth, growth, kernel_size=3, padding=1) for i in range(layers)
        )
        self.fusion = nn.Conv2d(features + layers * growth, features, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, G0, H, W)`` to the same shape."""
        dense = x
        for layer in self.layers:
            dense = torch.cat([dense, F.relu(layer(dense))], dim=1)
        return x + self.fusion(dense)


class RDN(nn.Module):
    """Residual dense network with its body on the LR grid and a pixel shuffle for one whole K.

    Args:
        scale_factor: K >= 2, number of thin slices per thick slice.
        blocks: D, number of residual dense blocks.
        layers: C, convolutions per block.
        growth: G, channels added by each of them.
        features: G0, channels between the blocks.

    Raises:
        ValueError: if any size is out of range.
    """

    def __init__(self, scale_factor: int, blocks: int, layers: int, growth: int, features: int) -> None:
        super().__init__()
        check_sizes(blocks=blocks, layers=layers, growth=growth, features=features)
        if scale_factor != int(scale_factor) or scale_factor < 2:
            raise ValueError(f"scale_factor of RDN must be a whole number >= 2, got {scale_factor}; use SRNet instead")
        self.scale_factor = int(scale_factor)
        self.shallow_1 = nn.Conv2d(1, features, kernel_size=3, padding=1)
        self.shallow_2 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(ResidualDenseBlock(features, growth, layers) for _ in range(blocks))
        self.fusion = nn.Sequential(
            nn.Conv2d(blocks * features, features, kernel_size=1),
            nn.Conv2d(features, features, kernel_size=3, padding=1),
        )
        self.expand = nn.Conv2d(features, features * self.scale_factor, kernel_size=3, padding=1)
        self.reconstruct = nn.Conv2d(features, 1, kernel_size=3, padding=1)
        with torch.no_grad():  # start close to cubic interpolation
            self.reconstruct.weight.mul_(0.1)
            nn.init.zeros_(self.reconstruct.bias)  # type: ignore[arg-type]

    def forward(
        self, image: torch.Tensor, positions: torch.Tensor | None = None, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Super-resolve slices that contain the thick axis.

        Args:
            image: ``(B, 1, H, n)``, about [-1, 1]; the last axis is the thick one.
            positions: ``(K n,)`` thick coordinates of the thin slices, which must be those of this network's K.
                ``None`` stands for these.
            condition: not used; it is part of the signature of :class:`scripts.networks.srnet.SRNet`.

        Returns:
            ``(B, 1, H, K n)``.
        """
        if positions is None:
            positions = default_positions(image, self.scale_factor)
        torch._assert(
            positions.shape[0] == image.shape[-1] * self.scale_factor,
            "the grid must be that of the network's whole scale_factor; use SRNet for any other",
        )
        shallow = self.shallow_1(image)
        x = self.shallow_2(shallow)
        outputs: list[torch.Tensor] = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.fusion(torch.cat(outputs, dim=1)) + shallow
        residual = self.reconstruct(shuffle_last_axis(self.expand(x), self.scale_factor))
        return interpolate_cubic(image, positions) + residual
