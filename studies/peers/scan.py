# SPDX-License-Identifier: Apache-2.0
"""What a method is given, and how a network for slices is run over it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scripts.degradation import SliceProfileOperator
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.rdn import upsample_cubic
from torch import nn

__all__ = ["InterpolatedInput", "Scan", "both_orientations"]


@dataclass(frozen=True)
class Scan:
    """A thick-slice scan.

    Attributes:
        image: ``(H1, H2, n_slices)`` in unit range, thick axis last.
        spacing_mm: along these axes; slice spacing last.
        operator: the operator that made it.
    """

    image: torch.Tensor
    spacing_mm: tuple[float, float, float]
    operator: SliceProfileOperator

    @property
    def scale_factor(self) -> int:
        """K."""
        return self.operator.scale_factor

    @property
    def thin_mm(self) -> float:
        """Spacing of the thin slices."""
        return self.spacing_mm[2] / self.scale_factor


class InterpolatedInput(nn.Module):
    """A network that works on the HR grid, as one that takes thick slices: cubic interpolation plus what it lacks.

    Args:
        body: maps ``(B, 1, H, W)`` to the same shape.
        scale_factor: K.
    """

    def __init__(self, body: nn.Module, scale_factor: int) -> None:
        super().__init__()
        self.body = body
        self.scale_factor = scale_factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, W)`` to ``(B, 1, H, K * W)``."""
        cubic = upsample_cubic(image, self.scale_factor)
        return cubic + self.body(cubic)


def both_orientations(network: nn.Module, scan: Scan, batch_pixels: int = 2**14) -> torch.Tensor:
    """Run a network over both orientations that contain the thick axis and average, as the bundle does.

    Args:
        network: maps ``(B, 1, H, W)`` to ``(B, 1, H, K * W)``.
        scan: the scan.
        batch_pixels: LR pixels per forward.

    Returns:
        ``(H1, H2, K * n_slices)`` on the CPU.
    """
    device = next(network.parameters()).device
    inferer = ThroughPlaneInferer(scan.scale_factor, batch_pixels)
    return inferer(scan.image[None, None].to(device), network.eval())[0, 0].cpu()
