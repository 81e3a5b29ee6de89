# SPDX-License-Identifier: Apache-2.0
"""SRNet for any K: a residual dense network whose tail makes the features of thin slices at any positions.

The body is that of Zhang et al. (CVPR 2018) on the thick grid. A feature-wise scale and shift per block tell it how the
scan was acquired (Perez et al., AAAI 2018). Instead of a pixel shuffle for one whole K, each thin slice decodes the
features of its nearest thick slice with a matrix of its own. This matrix is a mixture of ``sets`` learned matrices. A
small perceptron computes their shares from the offset between the two slices and from the acquisition (after Hu et
al., "Meta-SR", CVPR 2019, whose perceptron predicts the whole matrix). Convolutions on the thin grid turn the result
into the difference from cubic interpolation at the same positions. Where the thick slices are linear, the result is
too.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .interpolation import interpolate_cubic, keep_linear, nearest_slices
from .rdn import ResidualDenseBlock, check_sizes, default_positions

__all__ = ["CONDITION_LENGTH", "SRNet"]

CONDITION_LENGTH = 4


class SRNet(nn.Module):
    """Residual dense network with a continuous tail.

    Args:
        blocks: number of residual dense blocks.
        layers: convolutions per block.
        growth: channels added by each of them.
        features: channels between the blocks.
        sets: number of decoding matrices; each thin slice takes a mixture of them.
        thin_features: channels on the thin grid.
        hidden: width of the perceptrons.
        untold_factor: K that :meth:`forward` assumes without positions, as in MONAI's own checks of a bundle.

    Raises:
        ValueError: if any size is out of range.
    """

    def __init__(
        self,
        blocks: int,
        layers: int,
        growth: int,
        features: int,
        sets: int,
        thin_features: int,
        hidden: int,
        untold_factor: int = 4,
    ) -> None:
        super().__init__()
        check_sizes(
            blocks=blocks, layers=layers, growth=growth, features=features, sets=sets, thin_features=thin_features,
            hidden=hidden,
        )  # fmt: skip
        self.untold_factor = untold_factor
        self.thin_features = thin_features
        self.shallow_1 = nn.Conv2d(1, features, kernel_size=3, padding=1)
        self.shallow_2 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(ResidualDenseBlock(features, growth, layers) for _ in range(blocks))
        self.modulation = nn.Sequential(
            nn.Linear(CONDITION_LENGTH, hidden), nn.SiLU(), nn.Linear(hidden, blocks * 2 * features)
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(blocks * features, features, kernel_size=1),
            nn.Conv2d(features, features, kernel_size=3, padding=1),
        )
        self.decoders = nn.Parameter(torch.randn(sets, features, thin_features) / features**0.5)
        self.mixture = nn.Sequential(
            nn.Linear(1 + CONDITION_LENGTH, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, sets),
        )  # fmt: skip
        self.refine = nn.Conv2d(thin_features, thin_features, kernel_size=3, padding=1)
        self.reconstruct = nn.Conv2d(thin_features, 1, kernel_size=3, padding=1)
        self.error_scale = nn.Sequential(
            nn.Conv2d(thin_features, thin_features, kernel_size=1), nn.ReLU(),
            nn.Conv2d(thin_features, 1, kernel_size=1),
        )  # fmt: skip
        with torch.no_grad():
            # at first, the body is not modulated and the result is close to cubic interpolation
            for parameter in self.modulation[2].parameters():
                nn.init.zeros_(parameter)
            self.reconstruct.weight.mul_(0.1)
            nn.init.zeros_(self.reconstruct.bias)  # type: ignore[arg-type]

    def forward(
        self, image: torch.Tensor, positions: torch.Tensor | None = None, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Super-resolve slices that contain the thick axis.

        Args:
            image: ``(B, 1, H, n)``, about [-1, 1]; the last axis is the thick one.
            positions: ``(N,)`` thick coordinates of the thin slices (:attr:`scripts.geometry.SliceGrid.positions`);
                ``None`` stands for the grid of ``untold_factor``.
            condition: ``(B, 4)`` or ``(1, 4)``: how the images were acquired
                (:meth:`scripts.degradation.SliceProfileOperator.condition`); ``None`` stands for box-like slices that
                touch, with rows as fine as the thin slices.

        Returns:
            ``(B, 2, H, N)``: the image, and the natural logarithm of its expected absolute error (unit range). No
            gradient flows from the second channel into the features.
        """
        positions, condition = self._told(image, positions, condition)
        modulation = self.modulation(condition).unflatten(1, (len(self.blocks), 2, -1))[..., None, None]
        shallow = self.shallow_1(image)
        x = self.shallow_2(shallow)
        outputs: list[torch.Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x * (1 + modulation[:, index, 0]) + modulation[:, index, 1])
            outputs.append(x)
        x = self.fusion(torch.cat(outputs, dim=1)) + shallow
        thin = F.relu(self.refine(F.relu(self._decode(x, positions, condition))))
        pred = interpolate_cubic(image, positions) + self.reconstruct(thin)
        pred = keep_linear(pred, image, positions)
        return torch.cat([pred, self.error_scale(thin.detach())], dim=1)

    def _told(
        self, image: torch.Tensor, positions: torch.Tensor | None, condition: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions and condition; those that are ``None`` are made for ``untold_factor``."""
        if positions is None:
            positions = default_positions(image, self.untold_factor)
        if condition is None:
            share = 1 / self.untold_factor
            condition = torch.tensor([[share, 1.0, 12**-0.5, share]], device=image.device)
        return positions, condition

    def _decode(self, features: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """``(B, F, H, n)`` on the thick grid to ``(B, C, H, N)`` on the thin grid."""
        nearest = nearest_slices(positions, features.shape[-1])
        offset = (positions - nearest)[None, :, None].expand(condition.shape[0], -1, 1)
        acquisition = condition[:, None, :].expand(-1, positions.shape[0], -1)
        shares = self.mixture(torch.cat([offset, acquisition], dim=2))  # (B, N, sets)
        decoders = (shares @ self.decoders.flatten(1)).unflatten(2, (features.shape[1], self.thin_features))
        gathered = features.index_select(-1, nearest).permute(0, 3, 2, 1)  # (B, N, H, F)
        thin = gathered @ decoders.to(gathered.dtype)  # (B, N, H, C)
        return thin.permute(0, 3, 2, 1)
