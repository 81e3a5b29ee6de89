# SPDX-License-Identifier: Apache-2.0
"""Which term of a loss moves a network, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.utils.enums import AdversarialIterationEvents
from torch import nn

__all__ = ["TermGradientNorms", "TotalGradientNorms", "gradient_norm"]


def gradient_norm(term: torch.Tensor, parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean norm of the gradient of a scalar at all the parameters together; its graph is kept.

    Nothing is added to ``.grad``. A term that does not depend on the parameters has norm 0.
    """
    if not term.requires_grad:
        return 0.0
    found = torch.autograd.grad(term, list(parameters), retain_graph=True, allow_unused=True)
    norms = [gradient.norm() for gradient in found if gradient is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


class TermGradientNorms:
    """Log the gradient norm of every weighted term of the loss at one network's parameters.

    Each look costs about one backward per term, so not every iteration has one.

    Args:
        network: whose parameters.
        interval: iterations between looks.
        writer: TensorBoard writer; the tags are ``gradient_norm/<term>``.
    """

    def __init__(self, network: nn.Module, interval: int, writer: Any) -> None:
        self.network = network
        self.interval = interval
        self.writer = writer

    def attach(self, engine: Engine) -> None:
        """Register with a trainer that fires ``LOSS_COMPLETED`` with ``output["weighted"]`` alive."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Look, where it is time."""
        if engine.state.iteration % self.interval:
            return
        for name, term in engine.state.output["weighted"].items():
            norm = gradient_norm(term, self.network.parameters())
            self.writer.add_scalar(f"gradient_norm/{name}", norm, engine.state.iteration)


class TotalGradientNorms:
    """Log the norm of the whole gradient of some networks, as their optimiser is about to see it.

    Args:
        networks: name to network, looked at after the generators' backward pass.
        discriminators: name to network, looked at after the discriminators' own.
        interval: iterations between looks.
        writer: TensorBoard writer; the tags are ``total_gradient_norm/<name>``.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], discriminators: Mapping[str, nn.Module], interval: int, writer: Any
    ) -> None:
        self.networks = dict(networks)
        self.discriminators = dict(discriminators)
        self.interval = interval
        self.writer = writer

    def attach(self, engine: Engine) -> None:
        """Register with a trainer that fires both kinds of events."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._log, self.networks, 1.0)
        engine.add_event_handler(AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED, self._log_discriminators)

    def _log_discriminators(self, engine: Any) -> None:
        self._log(
            engine,
            self.discriminators,
            engine.gradient_scaler.get_scale() if engine.gradient_scaler.is_enabled() else 1.0,
        )

    def _log(self, engine: Any, networks: Mapping[str, nn.Module], scale: float) -> None:
        if engine.state.iteration % self.interval:
            return
        for name, network in networks.items():
            norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
            total = float(torch.stack(norms).norm()) / scale if norms else 0.0
            self.writer.add_scalar(f"total_gradient_norm/{name}", total, engine.state.iteration)
