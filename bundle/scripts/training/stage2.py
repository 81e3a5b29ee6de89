# SPDX-License-Identifier: Apache-2.0
"""Stage 2: learn from thick-slice MR alone.

``inplane``: within a thick slice, an MR scan has high resolution. The slice is degraded along an in-plane axis, and the
network learns to undo that. These pairs come from the data set.

``paper`` (section 2.3, Algorithm 1): the thick slices are super-resolved, the result is degraded, and the network
learns to undo that, ``min || F(x_L) - F(D(F(x_L))) ||_1``. The text does not say which network makes the pair, nor
where the gradient flows. The possible readings are:

* ``current``: the network being trained makes the pair, without gradient;
* ``through``: the formula taken literally, with gradients through both passes;
* ``frozen``: the network at the end of stage 1 makes the pair;
* ``ema``: the running average of the network makes the pair.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from .acquisition import BatchOperator, told

__all__ = ["InPlanePairs", "PseudoPairs", "SelfSupervisedTrainer", "make_pairs"]

Pair = tuple[torch.Tensor, torch.Tensor]


class InPlanePairs:
    """Pairs from the data set, with real MR detail as the target."""

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Pair:
        """``(mr_image, mr_label)`` of the batch."""
        return batch["mr_image"], batch["mr_label"]


class PseudoPairs:
    """Pairs made from the network's own output on real thick slices.

    Args:
        reading: ``current``, ``through``, ``frozen`` or ``ema`` (see the module).
        operator: D.
        network: network that is trained; it is copied for ``frozen`` before training starts.
        average: running average of the network, for ``ema``.

    Raises:
        ValueError: for an unknown reading.
    """

    READINGS = ("current", "through", "frozen", "ema")

    def __init__(self, reading: str, operator: BatchOperator, network: nn.Module, average: nn.Module) -> None:
        if reading not in self.READINGS:
            raise ValueError(f"stage2_reading must be one of {self.READINGS}, got {reading!r}; correct the id")
        self.reading = reading
        self.operator = operator
        self.teacher = average if reading == "ema" else None
        if reading == "frozen":
            self.teacher = copy.deepcopy(network).eval()

    def __call__(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Pair:
        """Make a pair from the thick slices ``mr_image``."""
        image, acquisition = batch["mr_image"], told(batch, "mr")
        teacher = network if self.teacher is None else self.teacher
        with torch.set_grad_enabled(self.reading == "through"):
            target = teacher(image, *acquisition)[:, :1].float()
        return self.operator(target, image.shape[-1], *acquisition), target


def make_pairs(
    variant: str, reading: str, operator: BatchOperator, network: nn.Module, average: nn.Module
) -> InPlanePairs | PseudoPairs:
    """Return the source of pairs for a variant of stage 2, ``inplane`` or ``paper``; see :class:`PseudoPairs`.

    Raises:
        ValueError: for an unknown variant, or an unknown reading of the paper's.
    """
    if variant not in ("inplane", "paper"):
        raise ValueError(f"stage2_variant must be 'inplane' or 'paper', got {variant!r}; correct the id")
    return InPlanePairs() if variant == "inplane" else PseudoPairs(reading, operator, network, average)


class SelfSupervisedTrainer(SupervisedTrainer):
    """Train on pairs from :class:`PseudoPairs` or :class:`InPlanePairs`, with CT pairs as an anchor.

    The loss is ``loss_function(F(mr pair)) + anchor_weight * loss_function(F(ct pair))``. Both go through the network
    in one batch. Batches hold ``mr_image``, ``ct_image`` and ``ct_label``, and also ``mr_label`` if the data set makes
    the MR pair.

    Args:
        pairs: makes ``(image, target)`` from ``(network, batch)``.
        anchor_weight: weight of the CT term; 0 leaves CT out.
        supervised: further arguments of :class:`monai.engines.SupervisedTrainer`.
    """

    def __init__(
        self,
        pairs: Callable[[nn.Module, dict[str, torch.Tensor]], Pair],
        anchor_weight: float,
        **supervised: Any,
    ) -> None:
        super().__init__(**supervised)
        self.pairs = pairs
        self.anchor_weight = anchor_weight

    def _iteration(self, engine: SelfSupervisedTrainer, batchdata: dict[str, torch.Tensor]) -> dict[str, Any]:
        batch = {
            key: value.to(engine.state.device, non_blocking=engine.non_blocking) for key, value in batchdata.items()
        }
        engine.network.train()
        image, target = engine.pairs(engine.network, batch)
        n_mr, sources = len(image), ["mr"]
        if engine.anchor_weight > 0:
            image, sources = torch.cat([image, batch["ct_image"]]), ["mr", "ct"]
        pred = engine.inferer(image, engine.network, *told(batch, *sources))
        losses = {"loss_mr": engine.loss_function(pred[:n_mr], target)}
        if engine.anchor_weight > 0:
            losses["loss_ct"] = engine.loss_function(pred[n_mr:], batch["ct_label"])
        loss = losses["loss_mr"] + engine.anchor_weight * losses.get("loss_ct", torch.zeros(()))
        engine.state.output = {
            Keys.IMAGE: image[:n_mr],
            Keys.LABEL: target,
            Keys.PRED: pred[:n_mr],
            Keys.LOSS: loss,
            **losses,
        }
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self._step(engine, loss)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _step(self, engine: SelfSupervisedTrainer, loss: torch.Tensor) -> None:
        """Do the backward pass and, every ``accumulation_steps`` iterations, one step of the optimiser."""
        (loss / engine.accumulation_steps).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if engine.state.iteration % engine.accumulation_steps == 0:
            engine.optimizer.step()
            engine.optimizer.zero_grad()
