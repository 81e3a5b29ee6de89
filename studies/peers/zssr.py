# SPDX-License-Identifier: Apache-2.0
"""ZSSR: a small network that learns from the one image it is to super-resolve.

Re-implementation from A. Shocher, N. Cohen, M. Irani, "Zero-Shot" Super-Resolution using Deep Internal Learning, CVPR
2018, section 3: eight layers of 64 channels with ReLU on the interpolated image learn the residual between "HR fathers"
(the image itself and versions of it scaled down) and their "LR sons" (section 3.1), with the L1 loss and Adam at 1e-3
that falls to its end; augmented by mirroring; the result is back-projected.

What differs, because a thick-slice scan is not a photograph (:mod:`studies.peers.in_plane` trains it):

* the fathers are the slices of the scan, which *are* high-resolution, and the sons are made along one in-plane axis
  with the scan's own slice profile, scaled to the spacing of the thin slices; the paper's fathers would hold the thick
  axis, with no detail in it to learn from;
* quarter turns would put the thick axis elsewhere, so mirroring is the only augmentation besides the scale;
* the rate falls with the budget, not with the fitted slope of the error;
* back-projection is its own limit, data consistency, and the eight-fold self-ensemble is left out: the table applies
  the one and leaves out the other for all learned rows alike.
"""

from __future__ import annotations

from torch import nn

from .scan import InterpolatedInput, started_small

__all__ = ["ZSSRNetwork"]


class ZSSRNetwork(InterpolatedInput):
    """Convolutions on the interpolated image; starts close to cubic interpolation.

    Args:
        layers: convolutions of 3 x 3, at least two.
        features: channels between them.
    """

    def __init__(self, layers: int, features: int) -> None:
        body: list[nn.Module] = [nn.Conv2d(1, features, 3, padding=1), nn.ReLU()]
        for _ in range(layers - 2):
            body += [nn.Conv2d(features, features, 3, padding=1), nn.ReLU()]
        super().__init__(nn.Sequential(*body, started_small(nn.Conv2d(features, 1, 3, padding=1))))
