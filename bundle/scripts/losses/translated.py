# SPDX-License-Identifier: Apache-2.0
"""Translated pairs (beyond the paper): CT that was translated to MR, and the same image made thick."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["TranslatedPairsLoss", "sharpness"]


def sharpness(image: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbours, divided by the standard deviation so that contrast does not matter.

    Args:
        image: ``(B, 1, H, W)``.

    Returns:
        ``(B,)``; 0 for a constant image.
    """
    steps = image.diff(dim=2).abs().mean(dim=(1, 2, 3)) + image.diff(dim=3).abs().mean(dim=(1, 2, 3))
    return steps / image.std(dim=(1, 2, 3), correction=0).clamp_min(1e-6)


class TranslatedPairsLoss(nn.Module):
    """``||F(D(x')) - x'||_1`` over the patches whose x' is sharp, divided by the number of all patches.

    x' is a target without gradient. A blurred translation would teach SRNet to blur, so a patch counts only if x' is
    about as sharp as the CT image from which it was made.

    Args:
        min_sharpness: lowest ratio of the :func:`sharpness` of x' to that of y_H.

    Raises:
        ValueError: if ``min_sharpness`` is negative.
    """

    def __init__(self, min_sharpness: float) -> None:
        super().__init__()
        if not min_sharpness >= 0:
            raise ValueError(f"min_sharpness must be >= 0, got {min_sharpness}; correct translated_min_sharpness")
        self.min_sharpness = min_sharpness

    def forward(self, restored: torch.Tensor, translated: torch.Tensor, ct: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compare restored with translated images.

        Args:
            restored: F(D(x')), ``(B, 1, H, W)``.
            translated: x', same shape.
            ct: y_H, same shape.

        Returns:
            ``mr``, the loss.
        """
        target = translated.detach()
        is_sharp = sharpness(target) >= self.min_sharpness * sharpness(ct)
        distance = (restored - target).abs().mean(dim=(1, 2, 3))
        return {"mr": (distance * is_sharp).mean()}
