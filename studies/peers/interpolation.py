# SPDX-License-Identifier: Apache-2.0
"""Methods without learning: cubic convolution, the same with data consistency, and the windowed sinc."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from scripts.networks.interpolation import interpolate_cubic

from .scan import Scan

__all__ = ["bicubic", "bicubic_dc", "sinc"]


def bicubic(scan: Scan) -> torch.Tensor:
    """Cubic convolution along the thick axis (Keys 1981, a = -0.75 as in torch): ``(H1, H2, n_thin)``."""
    return interpolate_cubic(scan.image, scan.positions)


def bicubic_dc(scan: Scan) -> torch.Tensor:
    """The volume nearest to cubic interpolation that reproduces the scan exactly."""
    return scan.operator.enforce(bicubic(scan), scan.image)


def sinc(scan: Scan) -> torch.Tensor:
    """SimpleITK's Lanczos-windowed sinc (radius 5), sampled at the thin slices.

    SimpleITK does not extrapolate beyond the centres of the outermost slices, so the scan is first continued by five
    copies of each of them.
    """
    grid, radius = scan.operator.grid, 5
    h1, h2, n_slices = scan.image.shape
    # all lines side by side in one 2D image; across the lines, samples lie on voxels, where a sinc returns the voxel
    lines = np.pad(scan.image.numpy().reshape(h1 * h2, n_slices), ((0, 0), (radius, radius)), mode="edge")
    image = sitk.GetImageFromArray(lines)  # the last axis in NumPy is the first one in SimpleITK
    image.SetOrigin((grid.first - radius * grid.scale_factor, 0.0))  # in HR voxels
    image.SetSpacing((float(grid.scale_factor), 1.0))
    size, identity = (grid.n_thin, h1 * h2), sitk.Transform(2, sitk.sitkIdentity)
    arguments = (image, size, identity, sitk.sitkLanczosWindowedSinc, (0.0, 0.0), (1.0, 1.0), image.GetDirection(), 0.0)
    return torch.from_numpy(sitk.GetArrayFromImage(sitk.Resample(*arguments))).reshape(h1, h2, grid.n_thin)
