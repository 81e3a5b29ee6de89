# SPDX-License-Identifier: Apache-2.0
"""SRNet with the patient's own CT as a guide.

Bone, fat, air and skin have their edges at the same places in CT and in MR, and CT shows them sharply in every
direction. The relation between CT and MR intensities differs from scan to scan, so it is estimated from the scan
instead of being learned. The CT is made as thick as the MR, and SRNet super-resolves both. The detail that the restored
CT lacks is the detail that SRNet cannot restore from such slices. Within a small square, the restored CT is fitted to
the restored MR by least squares, and the missing detail of the CT, times the coefficients of the fit, is added to the
MR (:func:`explained_detail`; a guided filter, He et al., IEEE TPAMI 2013). The network learns how far to trust the fit
at every pixel.

Where the CT is not known, nothing is added, so the result there is that of SRNet, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .rdn import ResidualDenseBlock, check_sizes
from .srnet import SRNet

__all__ = ["GuidedSRNet", "explained_detail", "through_slices"]


def through_slices(
    thin: torch.Tensor, known: torch.Tensor, n_slices: int, positions: torch.Tensor, width: torch.Tensor
) -> torch.Tensor:
    """Make an image on the thin grid thick.

    The slice profile is a Gaussian with the standard deviation of the scan's own profile.

    Args:
        thin: ``(B, C, H, N)``.
        known: ``(B, 1, H, N)``, 1 where the image is known and 0 where it is left out.
        n_slices: n, the number of thick slices.
        positions: ``(N,)`` thick coordinates of the thin slices.
        width: ``(B,)`` or ``(1,)`` standard deviation of the slice profile over the slice spacing.

    Returns:
        ``(B, C, H, n)``; 0 where nothing is known.
    """
    slices = torch.arange(n_slices, device=thin.device, dtype=positions.dtype)
    offsets = (positions[:, None] - slices) / width[:, None, None].clamp(min=0.05)  # (B, N, n)
    weights = torch.exp(-0.5 * offsets**2)[:, None]
    # the small constant avoids a division by 0 where nothing of a slice is known
    return ((thin * known) @ weights) / ((known @ weights) + 1e-6)


def explained_detail(
    image: torch.Tensor, sharp: torch.Tensor, blurred: torch.Tensor, side: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The detail that an image lacks, if it is locally a linear function of other images.

    Around every pixel, ``image = a . blurred + b`` is fitted by least squares.

    Args:
        image: ``(B, 1, H, N)``.
        sharp: ``(B, C, H, N)``, the other images.
        blurred: the other images, as blurred as ``image``.
        side: odd side of the square of the fit, in pixels.
        eps: added to the variances (unit range squared), so that smaller variations of ``blurred`` count as noise.

    Returns:
        The detail ``a . (sharp - blurred)``, and the fit's residual ``image - a . blurred - b``, ``(B, 1, H, N)`` each.
    """

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)

    count = sharp.shape[1]
    first, second = torch.tril_indices(count, count, device=image.device)
    centre, others = mean(image), mean(blurred)
    moments = mean(blurred[:, first] * blurred[:, second]) - others[:, first] * others[:, second]
    covariance = moments.new_zeros(len(moments), count, count, *moments.shape[2:])
    covariance[:, first, second] = covariance[:, second, first] = moments
    covariance = covariance.movedim((1, 2), (-2, -1)) + eps * torch.eye(count, device=image.device)
    shared = (mean(blurred * image) - others * centre).movedim(1, -1)
    factors = torch.linalg.solve(covariance, shared).movedim(-1, 1)
    detail = (factors * (sharp - blurred)).sum(dim=1, keepdim=True)
    return detail, image - centre - (factors * (blurred - others)).sum(dim=1, keepdim=True)


class GuidedSRNet(SRNet):
    """SRNet with a guide.

    Before training, it gives exactly the result of :class:`SRNet` with the same weights, because the last convolution
    of the new part starts at 0. The names of the new parameters begin with ``guidance.``.

    Args:
        guide_features: channels between the residual dense blocks of the new part.
        guide_growth: channels that each convolution of these blocks adds.
        guide_layers: convolutions per block.
        guide_blocks: number of these blocks.
        guide_windows: intensity windows of the CT (unit range). Each becomes an image of its own, scaled to [-1, 1].
            The fit is made once with the first window alone and once with all of them. A narrow window shows the
            differences between soft tissues.
        guide_sides: odd sides of the squares of :func:`explained_detail`, in pixels.
        guide_eps: see :func:`explained_detail`.
        srnet: arguments of :class:`SRNet`.

    Raises:
        ValueError: if a size is out of range, or a window is empty.
    """

    takes_guide = True

    def __init__(
        self,
        guide_features: int,
        guide_growth: int,
        guide_layers: int,
        guide_blocks: int,
        guide_windows: Sequence[Sequence[float]],
        guide_sides: Sequence[int],
        guide_eps: float,
        **srnet: int,
    ) -> None:
        super().__init__(**srnet)
        check_sizes(
            guide_features=guide_features, guide_growth=guide_growth, guide_layers=guide_layers,
            guide_blocks=guide_blocks, guide_windows=len(guide_windows), guide_sides=len(guide_sides),
        )  # fmt: skip
        for low, high in guide_windows:
            if not low < high:
                raise ValueError(f"guide_windows must be (low, high) with low < high, got {(low, high)}; correct them")
        if any(side < 3 or side % 2 == 0 for side in guide_sides):
            raise ValueError(f"guide_sides must be odd and >= 3, got {list(guide_sides)}; correct them")
        self.windows = [(float(low), float(high)) for low, high in guide_windows]
        self.sides = [int(side) for side in guide_sides]
        self.eps = guide_eps
        fits = len(self.sides) * len({1, len(self.windows)})
        last = nn.Conv2d(guide_features, fits, kernel_size=3, padding=1)
        self.guidance = nn.Sequential(
            nn.Conv2d(len(self.windows) + 2 + 2 * fits, guide_features, kernel_size=3, padding=1),
            nn.ReLU(),
            *(ResidualDenseBlock(guide_features, guide_growth, guide_layers) for _ in range(guide_blocks)),
            nn.ReLU(),
            last,
        )
        with torch.no_grad():
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(
        self,
        image: torch.Tensor,
        positions: torch.Tensor | None = None,
        condition: torch.Tensor | None = None,
        guide: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Super-resolve slices that contain the thick axis.

        Args:
            image: see :meth:`SRNet.forward`.
            positions: see :meth:`SRNet.forward`.
            condition: see :meth:`SRNet.forward`.
            guide: ``(B, 2, H, N)`` on the grid of the result: the CT in unit range, and a mask that is 1 where it is
                known and 0 elsewhere; ``None`` if there is no CT.

        Returns:
            ``(B, 2, H, N)``, like :meth:`SRNet.forward`; the expected error is that of the result without a guide.
        """
        positions, condition = self._told(image, positions, condition)
        pred = super().forward(image, positions, condition)
        if guide is None:
            return pred
        seen, details = self._see(pred[:, :1], image.shape[-1], positions, condition, guide)
        trust = self.guidance(seen)
        return torch.cat([pred[:, :1] + (trust * details).sum(dim=1, keepdim=True), pred[:, 1:]], dim=1)

    @torch.no_grad()
    def _see(
        self,
        pred: torch.Tensor,
        n_slices: int,
        positions: torch.Tensor,
        condition: torch.Tensor,
        guide: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs of the learned part, and the detail that the CT explains, one channel per fit."""
        ct, known, count = guide[:, :1], guide[:, 1:], len(self.windows)
        sharp = torch.cat([((ct - low) * (2 / (high - low)) - 1).clamp(-1, 1) for low, high in self.windows], dim=1)
        thick = through_slices(sharp, known, n_slices, positions, condition[:, 2]).flatten(0, 1)[:, None]
        told = condition.expand(len(guide), -1).repeat_interleave(count, dim=0)
        restored = super().forward(thick, positions, told)[:, :1].reshape(sharp.shape)
        with torch.autocast(guide.device.type, enabled=False):  # variances are small differences of large numbers
            pred, restored = pred.float(), restored.float()
            fits = [
                explained_detail(pred, sharp[:, :used], restored[:, :used], side, self.eps)
                for side in self.sides
                for used in sorted({1, count})
            ]
            details = known * torch.cat([detail for detail, _ in fits], dim=1)
            residuals = known * torch.cat([residual for _, residual in fits], dim=1)
        return torch.cat([sharp * known, known, pred, details, residuals], dim=1), details
