# SPDX-License-Identifier: Apache-2.0
"""The input of a method, and the run of a network for slices over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from monai.data import MetaTensor
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.interpolation import interpolate_cubic
from torch import nn

__all__ = [
    "InterpolatedInput",
    "Scan",
    "as_inputs",
    "both_orientations",
    "he_initialised",
    "operator_on",
    "started_small",
    "whole_factor",
]


@dataclass(frozen=True)
class Scan:
    """A thick-slice scan.

    Attributes:
        image: ``(H1, H2, n_slices)`` in unit range, thick axis last.
        spacing_mm: spacing along these axes; slice spacing last.
        operator: the operator that made the scan.
        reference: ``(H1, H2, n_thin)`` in unit range, another contrast of the same patient on the thin grid, if the
            user has given one.
    """

    image: torch.Tensor
    spacing_mm: tuple[float, float, float]
    operator: SliceProfileOperator
    reference: torch.Tensor | None = None

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
    """K for a method whose paper covers whole factors only.

    Raises:
        ValueError: if K is not a whole number.
    """
    if scale_factor != int(scale_factor) or scale_factor < 2:
        raise ValueError(
            f"scale_factor must be a whole number >= 2 for {method}, got {scale_factor:g}; leave the row out"
        )
    return int(scale_factor)


Layer = TypeVar("Layer", nn.Conv2d, nn.Conv3d)


def started_small(convolution: Layer) -> Layer:
    """Scale down the last convolution of a network that predicts a residual, so that it starts near interpolation."""
    with torch.no_grad():
        convolution.weight.mul_(0.1)
        if convolution.bias is not None:
            convolution.bias.zero_()
    return convolution


def he_initialised(network: nn.Module) -> nn.Module:
    """Initialise convolutions so that the scale of the activations does not depend on depth (He et al., ICCV 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


class InterpolatedInput(nn.Module):
    """A network on the HR grid with thick slices as input: cubic interpolation plus a residual.

    Like the interpolation, it takes any K, and slices as well as volumes.

    Args:
        body: maps ``(B, 1, ...)`` to the same shape.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """``(B, 1, ..., n)`` to ``(B, 1, ..., N)`` at the positions; the condition is not used."""
        cubic = interpolate_cubic(image, positions)
        return cubic + self.body(cubic)


def both_orientations(network: nn.Module, scan: Scan, batch_pixels: int = 2**14) -> torch.Tensor:
    """Run a network over both orientations that contain the thick axis, and average the results, as the bundle does.

    Args:
        network: maps images, positions and condition as :class:`scripts.networks.srnet.SRNet` does.
        scan: the scan.
        batch_pixels: largest number of LR pixels per batch.

    Returns:
        ``(H1, H2, n_thin)`` on the CPU.
    """
    device = next(network.parameters()).device
    inferer = ThroughPlaneInferer(scan.operator.profile, batch_pixels=batch_pixels)
    return inferer(as_inputs(scan).to(device), network.eval())[0, 0].cpu()


def as_inputs(scan: Scan) -> MetaTensor:
    """``(1, 1, H1, H2, n_slices)`` with the meta data that the bundle's inferer reads."""
    meta = {
        "working_spacing_mm": np.array(scan.spacing_mm),
        "slice_thickness_mm": scan.operator.thickness_to_spacing * scan.spacing_mm[2],
        "scale_factor": scan.scale_factor,
    }
    return MetaTensor(scan.image[None, None], meta=meta)
