# SPDX-License-Identifier: Apache-2.0
"""Measure how strongly each term of a loss acts on a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import AdversarialIterationEvents
from torch import nn

from .checkpoint import whole_steps

__all__ = ["GradientNorms", "gradient_norm"]


def gradient_norm(term: torch.Tensor, parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean norm of the gradient of a scalar with respect to all parameters. The graph is kept.

    Nothing is added to ``.grad``. A term that does not depend on the parameters has norm 0.
    """
    if not term.requires_grad:
        return 0.0
    found = torch.autograd.grad(term, list(parameters), retain_graph=True, allow_unused=True)
    norms = [gradient.norm() for gradient in found if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


class GradientNorms:
    """Log gradient norms of the networks of a :class:`scripts.training.stage3.JointTrainer`.

    ``gradient_norm/<term>`` is the gradient norm of one weighted term at SRNet; each measurement costs about one
    backward pass per term. ``total_gradient_norm/<network>`` is the norm of the whole gradient, as the optimiser uses
    it.

    Args:
        interval: iterations between measurements, which take place only when the optimisers step.
        writer: TensorBoard writer, or ``None`` to log nothing.
    """

    def __init__(self, interval: int, writer: Any | None) -> None:
        self.interval = interval
        self.writer = writer

    def attach(self, engine: Any) -> None:
        """Register with the trainer, after the handler that clips its gradients."""
        if self.writer is None:
            return
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._terms)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._generators)
        engine.add_event_handler(AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED, self._discriminators)

    def _due(self, engine: Any) -> bool:
        return engine.state.iteration % whole_steps(self.interval, engine.accumulation_steps) == 0

    def _terms(self, engine: Any) -> None:
        if not self._due(engine):
            return
        for name, term in engine.state.output["weighted"].items():
            self._log(engine, f"gradient_norm/{name}", gradient_norm(term, engine.network.parameters()))

    def _generators(self, engine: Any) -> None:
        self._totals(engine, {"srnet": engine.network, "citnet": engine.citnet}, 1.0)

    def _discriminators(self, engine: Any) -> None:
        self._totals(engine, {"discriminators": engine.discriminators}, engine.gradient_scaler.get_scale())

    def _totals(self, engine: Any, networks: dict[str, nn.Module], scale: float) -> None:
        if not self._due(engine):
            return
        for name, network in networks.items():
            norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
            self._log(engine, f"total_gradient_norm/{name}", float(torch.stack(norms).norm()) / scale if norms else 0.0)

    def _log(self, engine: Any, tag: str, value: float) -> None:
        self.writer.add_scalar(tag, value, engine.state.iteration)  # type: ignore[union-attr]
