# SPDX-License-Identifier: Apache-2.0
"""ZSSR: a small network that learns only from the image that it super-resolves.

Re-implementation from A. Shocher, N. Cohen, M. Irani, "Zero-Shot" Super-Resolution using Deep Internal Learning, CVPR
2018, section 3: eight layers of 64 channels with ReLU on the interpolated image learn the residual between "HR fathers"
(the image itself and versions of it scaled down) and their "LR sons" (section 3.1), with the L1 loss and Adam at 1e-3
that decreases during training. Mirroring augments the data, and the result is back-projected.

Differences from the paper, because a thick-slice scan is not a photograph (:mod:`studies.peers.in_plane` trains the
network):

* The fathers are the slices of the scan, which *have* high resolution. The sons are made along one in-plane axis with
  the slice profile of the scan, scaled to the spacing of the thin slices. The paper's fathers would contain the thick
  axis, along which there is no detail to learn from.
* Quarter turns would move the thick axis, so mirroring is the only augmentation besides the scale.
* The learning rate falls with the budget, not with the fitted slope of the error.
* Back-projection is replaced by its limit, data consistency, and the eight-fold self-ensemble is left out, as the table
  does for all learned rows.
"""

from __future__ import annotations

from torch import nn

from .scan import InterpolatedInput, started_small

__all__ = ["ZSSRNetwork"]


class ZSSRNetwork(InterpolatedInput):
    """Convolutions on the interpolated image, which start close to cubic interpolation.

    Args:
        layers: number of 3 x 3 convolutions, at least two.
        features: channels between them.
    """

    def __init__(self, layers: int, features: int) -> None:
        body: list[nn.Module] = [nn.Conv2d(1, features, 3, padding=1), nn.ReLU()]
        for _ in range(layers - 2):
            body += [nn.Conv2d(features, features, 3, padding=1), nn.ReLU()]
        super().__init__(nn.Sequential(*body, started_small(nn.Conv2d(features, 1, 3, padding=1))))
