# SPDX-License-Identifier: Apache-2.0
"""DeepResolve: a deep residual network for thin slices. Supervised, 3D.

Re-implementation from A. S. Chaudhari et al., Super-resolution Musculoskeletal MRI Using Deep Learning, Magnetic
Resonance in Medicine 80(5), 2018: pairs of 3 x 3 x 3 convolution and ReLU (20 layers, 64 channels) on slices that
are interpolated to the thin grid. The network learns the residual, which is added: ``x = y + R(y)``.

Differences from the paper: fewer layers and channels, so that the network converges on a CPU (the sizes are in the
table's JSON); L1 loss instead of L2; cubic interpolation on the table's grid.
"""

from __future__ import annotations

from torch import nn

from .scan import InterpolatedInput, he_initialised, started_small

__all__ = ["DeepResolve"]


class DeepResolve(InterpolatedInput):
    """Convolutions of 3 x 3 x 3 with ReLU between them.

    Args:
        layers: number of convolutions, at least two.
        features: channels between them.
    """

    def __init__(self, layers: int, features: int) -> None:
        body: list[nn.Module] = [nn.Conv3d(1, features, 3, padding=1), nn.ReLU()]
        for _ in range(layers - 2):
            body += [nn.Conv3d(features, features, 3, padding=1), nn.ReLU()]
        last = started_small(nn.Conv3d(features, 1, 3, padding=1))
        super().__init__(nn.Sequential(he_initialised(nn.Sequential(*body)), last))
