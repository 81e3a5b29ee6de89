# SPDX-License-Identifier: Apache-2.0
"""SRCNN3D: three convolutions on the interpolated volume. Supervised, 3D.

Re-implementation from C.-H. Pham et al., Brain MRI Super-Resolution Using Deep 3D Convolutional Networks, ISBI 2017,
after SRCNN (Dong et al. 2014): ``F(y) = W3 * max(0, W2 * max(0, W1 * y + b1) + b2) + b3``, where ``y`` is the volume
interpolated to the thin grid; kernels of 9, 1 and 5 voxels, 64 and 32 channels.

Differences from the paper: the layers predict the difference from cubic interpolation instead of the image, so that the
first steps are not spent on learning to copy. L1 loss, Adam and a learning rate that falls with the budget are those of
all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .scan import InterpolatedInput, started_small

__all__ = ["SRCNN3D"]


class SRCNN3D(InterpolatedInput):
    """Patch extraction, non-linear mapping and reconstruction.

    Args:
        kernels: odd sides of the three kernels.
        features: channels after the first and after the second convolution.
    """

    def __init__(self, kernels: Sequence[int], features: Sequence[int]) -> None:
        sides, (first, second) = tuple(kernels), tuple(features)
        super().__init__(
            nn.Sequential(
                nn.Conv3d(1, first, sides[0], padding="same"), nn.ReLU(),
                nn.Conv3d(first, second, sides[1], padding="same"), nn.ReLU(),
                started_small(nn.Conv3d(second, 1, sides[2], padding="same")),
            )
        )  # fmt: skip
