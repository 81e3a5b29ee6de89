# SPDX-License-Identifier: Apache-2.0
"""What a method is given, and how a network for slices is run over it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.data import MetaTensor
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.interpolation import interpolate_cubic
from torch import nn

__all__ = ["InterpolatedInput", "Scan", "both_orientations", "operator_on", "whole_factor"]


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
    def scale_factor(self) -> float:
        """K."""
        return self.operator.grid.scale_factor

    @property
    def positions(self) -> torch.Tensor:
        """``(n_thin,)`` thick coordinates of the thin slices."""
        return self.operator.grid.positions_tensor()

    @property
    def thin_mm(self) -> float:
        """Spacing of the thin slices."""
        return self.spacing_mm[2] / self.scale_factor


def operator_on(operator: SliceProfileOperator, n_thin: int) -> SliceProfileOperator:
    """The same slice profile, thickness and K on a block of ``n_thin`` slices."""
    return replace(operator, grid=SliceGrid.under_slab(n_thin, operator.grid.scale_factor))


def whole_factor(method: str, scale_factor: float) -> int:
    """K of a method whose paper is for whole factors.

    Raises:
        ValueError: for any other K.
    """
    if scale_factor != int(scale_factor) or scale_factor < 2:
        raise ValueError(
            f"scale_factor must be a whole number >= 2 for {method}, got {scale_factor:g}; leave the row out"
        )
    return int(scale_factor)


class InterpolatedInput(nn.Module):
    """A network that works on the HR grid, as one that takes thick slices: cubic interpolation plus what it lacks.

    It takes any K, since the interpolation does.

    Args:
        body: maps ``(B, 1, H, W)`` to the same shape.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, n)`` to ``(B, 1, H, N)`` at the positions; the condition is not used."""
        cubic = interpolate_cubic(image, positions)
        return cubic + self.body(cubic)


def both_orientations(network: nn.Module, scan: Scan, batch_pixels: int = 2**14) -> torch.Tensor:
    """Run a network over both orientations that contain the thick axis and average, as the bundle does.

    Args:
        network: maps images, positions and condition as :class:`scripts.networks.srnet.SRNet` does.
        scan: the scan.
        batch_pixels: LR pixels per forward.

    Returns:
        ``(H1, H2, n_thin)`` on the CPU.
    """
    device = next(network.parameters()).device
    thickness_mm = scan.operator.thickness_to_spacing * scan.spacing_mm[2]
    meta = {
        "working_spacing_mm": np.array(scan.spacing_mm), "slice_thickness_mm": thickness_mm,
        "scale_factor": scan.scale_factor,
    }  # fmt: skip
    inferer = ThroughPlaneInferer(scan.operator.profile, batch_pixels=batch_pixels)
    inputs = MetaTensor(scan.image[None, None], meta=meta).to(device)
    return inferer(inputs, network.eval())[0, 0].cpu()
