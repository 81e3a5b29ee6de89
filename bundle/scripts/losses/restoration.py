# SPDX-License-Identifier: Apache-2.0
"""The supervised loss of SRNet: the distance from the truth, and the likelihood of the predicted error."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["RestorationLoss"]


class RestorationLoss(nn.Module):
    """Distance of images plus, for a network with a second channel, the likelihood of its expected error.

    The second channel ``s`` is the logarithm of the expected absolute error. Its loss is the negative logarithm of the
    Laplace density, ``|e| exp(-s) + s``, whose minimum is ``s = log E|e|``. ``e`` is detached, so the predicted
    error has no effect on the image.

    Args:
        distance: compares images, such as L1 or MSE.
        lambda_error: weight of the second term.
        least_error: smaller errors (unit range) count as this error.
    """

    def __init__(self, distance: nn.Module, lambda_error: float, least_error: float) -> None:
        super().__init__()
        self.distance = distance
        self.lambda_error = lambda_error
        self.least_error = least_error

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``(B, 1 or 2, H, N)`` and ``(B, 1, H, N)`` to a scalar."""
        image = pred[:, :1]
        loss = self.distance(image, target)
        if pred.shape[1] == 1 or self.lambda_error == 0:
            return loss
        error = (image.detach() - target).abs().clamp_min(self.least_error)
        scale = pred[:, 1:]
        return loss + self.lambda_error * (error * torch.exp(-scale) + scale).mean()
