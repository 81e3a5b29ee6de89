# SPDX-License-Identifier: Apache-2.0
"""LRTV and TV: find the thin volume of low rank and small total variation that explains the slices. Per scan, 3D.

Re-implementation from F. Shi et al., LRTV: MR Image Super-Resolution with Low-Rank and Total Variation Regularizations,
IEEE TMI 34(12), 2015, Eq. 4 and 5: the convex problem

    min_x  1/2 |D x - y|^2  +  low_rank / 3 * sum_i |x_(i)|_*  +  total_variation * sum |grad x|,

where ``x_(i)`` is the volume unfolded along axis i and ``|.|_*`` the sum of the singular values. Solved by ADMM (as in
the paper's Algorithm 1) with the splits ``M_i = x_(i)`` and ``w = grad x``.

Differences from the paper: the paper updates x by gradient descent and has no split for TV; here the update of x is
exact. D acts along one axis, and the Laplacian of the other two is diagonal in the cosine transform, so a single
eigenvalue problem of the size of a line solves all updates. D is the table's operator instead of blur and
down-sampling. The weights in the table's JSON are those that did best on a training subject
(``python -m studies.lrtv_weights``), where the low rank did not help: LRTV has the smallest ``low_rank`` of that search
which is not 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.fft import dctn, idctn
from scripts.training.budget import processor_seconds
from tqdm import tqdm

from .interpolation import bicubic
from .scan import Scan

__all__ = ["LRTV", "gradient", "gradient_adjoint", "shrink_singular_values"]


class LRTV:
    """Solve the convex problem for a scan.

    Args:
        low_rank: weight of the nuclear norms; with 0, only TV remains.
        total_variation: weight of TV.
        penalty: rho of ADMM; it changes the speed of convergence, not the solution.
        tolerance: relative change of x per iteration below which the iteration ends.
        max_iterations: largest number of iterations, whatever the budget.
    """

    def __init__(
        self, low_rank: float, total_variation: float, penalty: float, tolerance: float, max_iterations: int
    ) -> None:
        self.low_rank = low_rank
        self.total_variation = total_variation
        self.penalty = penalty
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def solve(self, scan: Scan, budget_s: float) -> torch.Tensor:
        """``(H1, H2, n_thin)``: the solution, or the iterate after ``budget_s`` processor seconds."""
        x, y, rho = bicubic(scan), scan.image, self.penalty
        axes = range(3) if self.low_rank else range(0)
        inverse = self._inverse(scan, len(axes))
        ranks, rank_duals = [x.clone() for _ in axes], [torch.zeros_like(x) for _ in axes]
        slopes, slope_duals = gradient(x), torch.zeros(3, *x.shape)
        known = scan.operator.adjoint(y)
        started = processor_seconds(x.device)
        for _ in tqdm(range(self.max_iterations), desc="lrtv" if self.low_rank else "tv", unit="iteration"):
            target = gradient_adjoint(slopes - slope_duals)
            for rank, dual in zip(ranks, rank_duals, strict=True):
                target += rank - dual
            before, x = x, inverse(known + rho * target)
            for axis in axes:
                ranks[axis] = shrink_singular_values(x + rank_duals[axis], axis, self.low_rank / 3 / rho)
                rank_duals[axis] += x - ranks[axis]
            found = gradient(x)
            slopes = found + slope_duals
            length = slopes.square().sum(0).sqrt()
            slopes = slopes * (1 - self.total_variation / rho / length.clamp(min=1e-12)).clamp(min=0)
            slope_duals += found - slopes
            if float((x - before).norm()) < self.tolerance * float(x.norm()):
                break
            if processor_seconds(x.device) - started > budget_s:
                break
        return x

    def _inverse(self, scan: Scan, splits: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """``b -> (D^T D + rho splits + rho grad^T grad)^-1 b``."""
        h1, h2, _ = scan.image.shape
        n = scan.operator.grid.n_thin
        matrix = scan.operator.matrix
        differences = np.diff(np.eye(n), axis=0)
        line = matrix.T @ matrix + self.penalty * (splits * np.eye(n) + differences.T @ differences)
        values, vectors = np.linalg.eigh(line)
        across = np.add.outer(*(2 - 2 * np.cos(np.pi * np.arange(m) / m) for m in (h1, h2)))
        divisor = (values + self.penalty * across[..., None]).astype(np.float32)
        vectors = vectors.astype(np.float32)

        def inverse(b: torch.Tensor) -> torch.Tensor:
            spectrum = dctn(b.numpy(), axes=(0, 1), norm="ortho") @ vectors
            return torch.from_numpy(idctn(spectrum / divisor, axes=(0, 1), norm="ortho") @ vectors.T)

        return inverse


def gradient(x: torch.Tensor) -> torch.Tensor:
    """``(H, W, N)`` to ``(3, H, W, N)``: forward differences, 0 at the far ends."""
    result = torch.zeros(3, *x.shape, dtype=x.dtype)
    for axis in range(3):
        result[axis].narrow(axis, 0, x.shape[axis] - 1).copy_(x.diff(dim=axis))
    return result


def gradient_adjoint(slopes: torch.Tensor) -> torch.Tensor:
    """``(3, H, W, N)`` to ``(H, W, N)``: the transpose of :func:`gradient`."""
    result = torch.zeros_like(slopes[0])
    for axis in range(3):
        count = result.shape[axis] - 1
        inner = slopes[axis].narrow(axis, 0, count)
        result.narrow(axis, 1, count).add_(inner)
        result.narrow(axis, 0, count).sub_(inner)
    return result


def shrink_singular_values(x: torch.Tensor, axis: int, threshold: float) -> torch.Tensor:
    """The proximal map of ``threshold`` times the nuclear norm of ``x`` unfolded along an axis; same shape as ``x``."""
    moved = x.movedim(axis, 0)
    unfolded = moved.flatten(1)
    squares, vectors = torch.linalg.eigh((unfolded @ unfolded.T).double())  # on the small side: U S^2 U^T
    singular = squares.clamp(min=0).sqrt()
    kept = ((singular - threshold).clamp(min=0) / singular.clamp(min=1e-12)).to(vectors.dtype)
    shrunk = ((vectors * kept) @ vectors.T).to(x.dtype) @ unfolded
    return shrunk.unflatten(1, moved.shape[1:]).movedim(0, axis).contiguous()
