# SPDX-License-Identifier: Apache-2.0
"""Map scanner units to [-1, 1] and back.

MR has no unit, so its range comes from percentiles of the acquired volume. The range is kept, so that the inverse is
the same straight line. Nothing is clipped, because a clipped value could not be restored. CT is in Hounsfield units and
has a fixed window; padding outside the scanner's field of view is replaced first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["AIR_LEVEL", "TISSUE_LEVEL", "IntensityRange", "ct_to_unit", "mr_intensity_range"]

# Limits between air and tissue in the unit range. There are two here, and a third, lower one in the configs
# (`background` of inference.json), because a mistake has different consequences in each place.
TISSUE_LEVEL = -0.8  # a tenth of the range; certainly tissue, for measures that a voxel of air would spoil
AIR_LEVEL = -0.9  # a twentieth of the range; the limits of the envelope were measured with this level


@dataclass(frozen=True)
class IntensityRange:
    """The linear map from ``[low, high]`` in scanner units to ``[-1, 1]``."""

    low: float
    high: float

    def to_unit(self, volume: torch.Tensor) -> torch.Tensor:
        """Map scanner units to the unit range; values outside ``[low, high]`` become values outside ``[-1, 1]``."""
        return (volume - self.low) * (2 / (self.high - self.low)) - 1

    def from_unit_(self, volume: torch.Tensor) -> torch.Tensor:
        """Map the unit range to scanner units, **in place**; the exact inverse of :meth:`to_unit`."""
        return volume.add_(1).mul_((self.high - self.low) / 2).add_(self.low)


def mr_intensity_range(volume: torch.Tensor, lower_percentile: float, upper_percentile: float) -> IntensityRange:
    """Robust range of an MR volume.

    Args:
        volume: any shape, scanner units.
        lower_percentile: percentile that becomes -1, for example 0.5.
        upper_percentile: percentile that becomes +1, for example 99.5.

    Raises:
        ValueError: if the volume holds NaN or infinity, or is constant.
    """
    values = volume.detach().flatten().float()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("intensities must be finite, got NaN or infinity; repair the image")
    low, high = _percentiles(values, lower_percentile, upper_percentile)
    if high <= low:  # nearly all voxels are equal: try the full range
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise ValueError(f"intensities must vary, got the constant {low:g}; there is nothing to super-resolve")
    return IntensityRange(low, high)


def _percentiles(values: torch.Tensor, *percentiles: float) -> list[float]:
    """Nearest-rank percentiles of (an evenly strided subset of at most about four million of) the values."""
    stride = values.numel() // 2**22 | 1  # odd, so that it has no common factor with the usual matrix sizes
    values = values[::stride]
    ranks = [1 + round((values.numel() - 1) * p / 100) for p in percentiles]
    return [float(values.kthvalue(rank).values) for rank in ranks]


def ct_to_unit(volume_hu: torch.Tensor, window_hu: tuple[float, float], padding_below_hu: float) -> torch.Tensor:
    """Map Hounsfield units to ``[-1, 1]``, clipped to a fixed window.

    Args:
        volume_hu: any shape.
        window_hu: ``(low, high)``, mapped to ``(-1, 1)``.
        padding_below_hu: values below this (-2000, -3024, ... outside the reconstruction circle) are air.

    Raises:
        ValueError: if the window is empty.
    """
    low, high = window_hu
    if high <= low:
        raise ValueError(f"window_hu must be (low, high) with low < high, got {tuple(window_hu)}; correct ct_window_hu")
    volume_hu = torch.where(volume_hu < padding_below_hu, torch.full_like(volume_hu, -1000.0), volume_hu)
    return IntensityRange(low, high).to_unit(volume_hu.clamp(low, high))
