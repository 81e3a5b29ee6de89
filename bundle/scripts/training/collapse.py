# SPDX-License-Identifier: Apache-2.0
"""Detect from two figures of the output whether self-supervision amplifies the artefacts of the network.

``gradient_ratio`` compares sharpness along the thick axis with sharpness in-plane, in the same images: sharpening
raises it, smoothing lowers it. ``period_peak`` measures a period-K pattern, such as a checkerboard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import default_collate

from ..data.patches import MixedPatches
from .acquisition import told
from .watch import TrainingDivergedError

__all__ = ["CollapseMonitor", "ThickSliceProbe", "gradient_ratio", "period_peak"]


def gradient_ratio(images: torch.Tensor) -> float:
    """Mean squared difference along the thick (last) axis, divided by that along the rows; ``(B, 1, H, W)``."""
    along = (images[..., 1:] - images[..., :-1]).square().mean()
    across = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    return float(along / across.clamp_min(1e-12))


def period_peak(images: torch.Tensor, scale_factor: int) -> float:
    """Strength of period K along the last axis of ``(B, 1, H, K * n)``.

    The mean squared difference between neighbours is computed per phase (position modulo K). Without a grid pattern,
    all phases are alike. The result is (max - min) / mean over the phases, which is 0 without a pattern.
    """
    difference = (images[..., 1:] - images[..., :-1]).square().mean(dim=tuple(range(images.ndim - 1)))
    phases = difference[: len(difference) // scale_factor * scale_factor].reshape(-1, scale_factor).mean(dim=0)
    return float((phases.max() - phases.min()) / phases.mean().clamp_min(1e-12))


class Probe(Protocol):
    """The interface that :class:`CollapseMonitor` needs; see :class:`ThickSliceProbe`."""

    scale_factor: int

    def __call__(self) -> torch.Tensor: ...


class ThickSliceProbe:
    """The network's current output on a fixed set of real thick-slice patches.

    Args:
        network: network that is trained.
        volumes: thick-slice MR volumes.
        transform: random through-plane patch. It is seeded here, so that the set is always the same.
        count: number of patches.
        scale_factor: K of the patches, a whole number.
    """

    def __init__(
        self, network: nn.Module, volumes: Sequence, transform: Callable, count: int, scale_factor: int
    ) -> None:
        self.network = network
        self.scale_factor = scale_factor
        patches = MixedPatches(
            {"mr": volumes}, {"mr": transform}, length=count, seed=0,
            scale_factors=lambda _: scale_factor, batch_size=count,
        )  # fmt: skip
        device = next(network.parameters()).device
        self.batch = {
            key: value.to(device) for key, value in default_collate([patches[i] for i in range(count)]).items()
        }

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        """``(count, 1, H, N)`` float32."""
        return self.network(self.batch["image"], *told(self.batch))[:, :1].float()


class CollapseMonitor:
    """Log both figures of the network's output on fixed thick slices, and stop the run if one of them grows too much.

    Args:
        probe: returns the network's current output on fixed real thick slices, ``(B, 1, H, K * n)``, and knows its K.
        interval: iterations between measurements.
        max_growth: largest gradient ratio, as a multiple of its value at the start.
        max_peak: largest increase of the period-K figure over its value at the start.
        writer: optional TensorBoard writer.

    It must stand before the checkpoint in the list of handlers. It then measures the initial weights of the stage
    before a checkpoint is loaded, so that a resumed run compares with the same figures, and a diverged state is never
    saved.

    Raises:
        TrainingDivergedError: during training, if one of the figures grows too much.
    """

    def __init__(
        self,
        probe: Probe,
        interval: int,
        max_growth: float,
        max_peak: float,
        writer: object | None = None,
    ) -> None:
        self.probe = probe
        self.interval = interval
        self.max_growth = max_growth
        self.max_peak = max_peak
        self.writer = writer
        self.first: tuple[float, float] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._look)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._look)

    def _look(self, engine: Engine) -> None:
        images = self.probe()
        ratio, peak = gradient_ratio(images), period_peak(images, self.probe.scale_factor)
        if self.first is None:
            self.first = (ratio, peak)
        if self.writer is not None:
            self.writer.add_scalar("collapse/gradient_ratio", ratio, engine.state.iteration)  # type: ignore[attr-defined]
            self.writer.add_scalar("collapse/period_peak", peak, engine.state.iteration)  # type: ignore[attr-defined]
        if ratio > self.first[0] * self.max_growth or peak > self.first[1] + self.max_peak:
            raise TrainingDivergedError(
                f"the output must stay stable, got gradient ratio {ratio:.3f} (start {self.first[0]:.3f}) and "
                f"period-{self.probe.scale_factor} figure {peak:.3f} (start {self.first[1]:.3f}) at iteration "
                f"{engine.state.iteration}: the network amplifies its own texture; lower the rate, choose "
                "another variant, or raise max_gradient_growth and max_period_peak"
            )
