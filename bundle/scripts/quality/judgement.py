# SPDX-License-Identifier: Apache-2.0
"""Judge how well a scan is super-resolved, on pairs that are made in-plane from its own slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..degradation import SliceProfileOperator
from ..inference.in_plane import Pairs
from ..intensity import TISSUE_LEVEL
from ..networks.interpolation import interpolate_cubic

__all__ = ["GAIN_REGION", "Changes", "Judgement", "changes_in_scan", "conformal_factor", "judge", "renew_noise"]

GAIN_REGION = "tissue: voxels of the truth above a tenth of the scan's range of intensities"


class Changes(NamedTuple):
    """What the network changes in a scan: mean squares over the tissue, in the unit range.

    Attributes:
        cubic: difference between the network with data consistency and cubic interpolation.
        consistent_cubic: the same for cubic interpolation with data consistency.
    """

    cubic: float
    consistent_cubic: float


@dataclass(frozen=True)
class Judgement:
    """Errors on the pairs: tensors ``(n,)`` with one number per voxel of tissue, in the unit range.

    Attributes:
        network: error of the network with data consistency.
        cubic: error of cubic interpolation.
        consistent_cubic: error of cubic interpolation with data consistency.
        expected: the absolute error that the network expects, ``None`` if it was not asked.
    """

    network: torch.Tensor
    cubic: torch.Tensor
    consistent_cubic: torch.Tensor
    expected: torch.Tensor | None

    def gain_over_cubic_db(self, changes: Changes, exponent: float) -> float:
        """Gain of the network over cubic interpolation in the tissue of the scan, in dB of the mean squared error.

        Slices K pixels thick show less fine detail in-plane than there is along the thick axis, so the network gains
        more on the scan than on the pairs. How much more shows in what it changes: the lead of its mean squared error
        is taken to grow as a power of the mean squared change. If interpolation leads, because of noise, that lead
        stays as it is.

        Args:
            changes: what it changes in the scan.
            exponent: that power; 0 gives the gain on the pairs.
        """
        return _gain_db(self.network, self.cubic, changes.cubic, exponent)

    def gain_over_consistent_cubic_db(self, changes: Changes, exponent: float) -> float:
        """The same for the gain over cubic interpolation with data consistency."""
        return _gain_db(self.network, self.consistent_cubic, changes.consistent_cubic, exponent)


def _mean_square(values: torch.Tensor) -> float:
    return max(float(values.square().mean()), 1e-12)


def _gain_db(ours: torch.Tensor, theirs: torch.Tensor, change_in_scan: float, exponent: float) -> float:
    more = (max(change_in_scan, 1e-12) / _mean_square(ours - theirs)) ** exponent
    lead = _mean_square(theirs) / _mean_square(ours) - 1
    return 10 * math.log10(1 + lead * (more if lead > 0 else 1))


def judge(
    forward: Callable[[torch.Tensor, tuple[torch.Tensor, torch.Tensor]], torch.Tensor],
    pairs: Pairs,
    operator: SliceProfileOperator,
    eps: float,
) -> Judgement | None:
    """Super-resolve pairs in the same way as the scan, and compare the results with their truth.

    Voxels within one and a half slices of the ends of a patch are not judged, because patches have many more ends than
    the scan.

    Args:
        forward: ``(images (b, rows, slices), (positions, condition (1, 4))) -> (b, 1 or 2, rows, columns)``: the
            network, and the absolute error that it expects.
        pairs: pairs made from the scan.
        operator: D on the grid of the pairs.
        eps: noise-to-signal ratio of data consistency, as for the scan; see :meth:`SliceProfileOperator.enforce`.

    Returns:
        The errors, or ``None`` if the pairs hold no tissue.
    """
    found: list[list[torch.Tensor]] = []
    edge = int(1.5 * operator.grid.scale_factor + 0.5)
    inner = slice(edge, operator.grid.n_thin - edge)
    for image, label, condition in zip(pairs.image[:, 0], pairs.label[:, 0], pairs.condition, strict=True):
        output = forward(image[None], (pairs.positions, condition[None]))[0].float()
        cubic = interpolate_cubic(image, pairs.positions)
        tissue = label[:, inner] > TISSUE_LEVEL
        results = (
            operator.enforce(output[0].clone(), image, eps), cubic, operator.enforce(cubic.clone(), image, eps),
        )  # fmt: skip
        errors = [(result - label)[:, inner][tissue] for result in results]
        found.append([*errors, output[-1][:, inner][tissue]] if len(output) > 1 else errors)
    columns = [torch.cat(column).cpu() for column in zip(*found, strict=True)]
    if not columns[0].numel():
        return None
    return Judgement(columns[0], columns[1], columns[2], columns[3] if len(columns) > 3 else None)


def changes_in_scan(
    pred: torch.Tensor, scan: torch.Tensor, operator: SliceProfileOperator, eps: float, rows: int = 16
) -> Changes | None:
    """Compare the network's result on the scan with cubic interpolation.

    Args:
        pred: ``(H1, H2, n_thin)``, the result before data consistency, unit range.
        scan: ``(H1, H2, n_slices)``, on the same device.
        operator: D of the scan.
        eps: noise-to-signal ratio of data consistency.
        rows: rows that are compared at once, which bounds the memory.

    Returns:
        The changes in the tissue, or ``None`` if there is no tissue.
    """
    positions = operator.grid.positions_tensor(pred.device)
    sums, count = [0.0, 0.0], 0
    for thin, thick in zip(pred.split(rows), scan.split(rows), strict=True):
        cubic = interpolate_cubic(thick, positions)
        consistent = operator.enforce(cubic.clone(), thick, eps)
        network = operator.enforce(thin.clone(), thick, eps)
        tissue = consistent > TISSUE_LEVEL
        count += int(tissue.sum())
        for index, reference in enumerate((cubic, consistent)):
            sums[index] += float((network - reference)[tissue].double().square().sum())
    return Changes(sums[0] / count, sums[1] / count) if count else None


def renew_noise(pairs: Pairs, operator: SliceProfileOperator, sigma: float, seed: int) -> Pairs:
    """Add noise to thick slices that were made from noisy pixels, to replace what averaging has removed.

    The slices of a scan have the noise of the acquisition; a mean of K pixels has less.

    Args:
        pairs: pairs made from the slices of the scan.
        operator: D on the grid of the pairs.
        sigma: standard deviation of the noise in the scan's slices, unit range.
        seed: seed of the noise.
    """
    kept = float((operator.matrix[operator.grid.n_slices // 2] ** 2).sum())
    noise = torch.randn(pairs.image.shape, generator=torch.Generator().manual_seed(seed))
    return pairs._replace(image=pairs.image + sigma * max(0.0, 1 - kept) ** 0.5 * noise.to(pairs.image))


def conformal_factor(error: torch.Tensor, expected: torch.Tensor, coverage: float) -> float:
    """Factor by which an expected error must be multiplied to cover the true one.

    Split conformal prediction (Lei et al., 2018) with the score ``error / expected``: the ``(n + 1) coverage``-th
    smallest of ``n`` scores. The coverage holds for new voxels that are exchangeable with those judged.

    Args:
        error: absolute errors, ``(n,)``.
        expected: expected absolute errors, ``(n,)``, > 0.
        coverage: share of voxels to cover, 0 to 1.
    """
    scores = error / expected.clamp(min=1e-6)
    rank = min(len(scores), math.ceil((len(scores) + 1) * coverage))
    return float(scores.kthvalue(rank).values)
