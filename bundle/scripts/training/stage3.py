# SPDX-License-Identifier: Apache-2.0
"""Stage 3: CITNet and SRNet trained together (paper, section 2.2, Algorithm 1).

One iteration super-resolves, translates, and makes one step of both discriminators and then one step of all other
networks. Both steps use the same images, so SRNet and CITNet run forward only once.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import AdversarialIterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..losses.disentanglement import DisentanglementLoss
from ..networks.citnet import Translation
from .acquisition import BatchOperator, told

__all__ = ["JointTrainer"]

Batch = dict[str, torch.Tensor]
Logits = list[torch.Tensor]


class JointTrainer(SupervisedTrainer):
    """Alternate one step of D_X and D_Y with one step of encoders, generators and SRNet.

    Batches hold ``mr_image`` (x_L), ``ct_label`` (y_H), ``ct_image`` (D(y_H)), ``mr_attribute`` and ``ct_attribute``
    (draws of the prior). The output of an iteration holds ``loss`` (Eq. 7), ``loss_discriminators``, every term of the
    objective by name, ``accuracy_mr`` and ``accuracy_ct`` of the discriminators, ``pred`` (x~_H), ``ct`` (y_H) and
    ``translation``. Between the loss and its backward pass, it also holds ``weighted``, the weighted terms of the loss
    with their graph.

    Networks may be wrapped in ``DistributedDataParallel``. With ``accumulation_steps`` n, both optimisers step at every
    n-th iteration, discriminators first, with the mean gradient of n iterations.

    Args:
        citnet: CITNet.
        discriminators: D_X and D_Y.
        discriminator_optimizer: over the parameters of the discriminators.
        loss_function: Eq. 7; its adversarial part is also the loss of the discriminators.
        ct_to_mr_attribute: the MR attribute code that CT is translated with: ``prior`` (a draw, section 2.2), ``own``
            (that of x~_H, section 1), or ``both``: iterations 1, 3, 5, ... take the draw, the others the MR's own.
        warmup_iterations: number of iterations at the start in which SRNet is frozen.
        autocast: ``bfloat16``, ``float16`` or ``None`` for full precision.
        operator: D of the translated pairs; not used if their weight is 0.
        supervised: further arguments of :class:`monai.engines.SupervisedTrainer`. ``network`` is SRNet, and
            ``optimizer`` holds the parameters of CITNet and SRNet.

    Attributes:
        gradient_scaler: scaler of both losses, which is active with ``float16`` only. Checkpoints must include it.

    Raises:
        ValueError: for an unknown precision or attribute code, or a count that is too small.
    """

    loss_function: DisentanglementLoss

    def __init__(
        self,
        citnet: nn.Module,
        discriminators: nn.Module,
        discriminator_optimizer: torch.optim.Optimizer,
        loss_function: DisentanglementLoss,
        ct_to_mr_attribute: str = "prior",
        warmup_iterations: int = 0,
        autocast: str | None = None,
        operator: BatchOperator | None = None,
        **supervised: Any,
    ) -> None:
        super().__init__(loss_function=loss_function, event_names=[AdversarialIterationEvents], **supervised)
        if autocast not in (None, "bfloat16", "float16"):
            raise ValueError(f"autocast must be null, 'bfloat16' or 'float16', got {autocast!r}; correct the id")
        if ct_to_mr_attribute not in ("prior", "own", "both"):
            raise ValueError(
                f"ct_to_mr_attribute must be 'prior', 'own' or 'both', got {ct_to_mr_attribute!r}; correct the id"
            )
        if warmup_iterations < 0:
            raise ValueError(f"warmup_iterations must be >= 0, got {warmup_iterations}; correct the id")
        if loss_function.weights["translated"] > 0 and operator is None:
            raise ValueError("operator must be given where lambda_translated is > 0, got none; add it to the trainer")
        self.operator = operator
        self.citnet = citnet
        self.discriminators = discriminators
        self.discriminator_optimizer = discriminator_optimizer
        self.ct_to_mr_attribute = ct_to_mr_attribute
        self.warmup_iterations = warmup_iterations
        self.precision = getattr(torch, autocast) if autocast else None
        self.gradient_scaler = torch.amp.GradScaler(self.state.device.type, enabled=autocast == "float16")

    def _iteration(self, engine: JointTrainer, batchdata: Batch) -> dict[str, Any]:
        batch = {
            key: value.to(engine.state.device, non_blocking=engine.non_blocking) for key, value in batchdata.items()
        }
        steps = engine.state.iteration % engine.accumulation_steps == 0
        for module in (engine.network, engine.citnet, engine.discriminators):
            module.train()
        with contextlib.ExitStack() as stack:
            if not steps:
                for module in (engine.network, engine.citnet, engine.discriminators):
                    if isinstance(module, DistributedDataParallel):
                        stack.enter_context(module.no_sync())
            ct = batch["ct_label"]
            mr, ct_restored = engine._super_resolve(batch)
            with engine._autocast():
                made = engine.citnet(mr, ct, batch["mr_attribute"], batch["ct_attribute"], engine._own_attribute())
            made = Translation(*(tensor.float() for tensor in made))
            engine.state.output = {Keys.PRED: mr.detach(), "ct": ct, "translation": detached(made)}
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            engine._train_discriminators(mr, ct, made, steps)
            engine._train_generators(batch, mr, ct_restored, made, steps)
        if steps:
            engine.gradient_scaler.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.device.type, dtype=self.precision, enabled=self.precision is not None)

    def _own_attribute(self) -> bool:
        """Whether CT is translated with the attribute code of x~_H in this iteration."""
        return self.ct_to_mr_attribute == "own" or (self.ct_to_mr_attribute == "both" and self.state.iteration % 2 == 0)

    def _super_resolve(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x~_H = F(x_L) and, if the CT anchor is used, F(D(y_H)), computed in one batch."""
        learns = self.state.iteration > self.warmup_iterations
        anchored = learns and self.loss_function.weights["ct_l1"] > 0
        thick = torch.cat([batch["mr_image"], batch["ct_image"]]) if anchored else batch["mr_image"]
        with torch.set_grad_enabled(learns), self._autocast():
            acquisition = told(batch, "mr", "ct") if anchored else told(batch, "mr")
            thin = self.network(thick.contiguous(memory_format=torch.channels_last), *acquisition)[:, :1].float()
        count = len(batch["mr_image"])
        return thin[:count], thin[count:] if anchored else None

    def _translated_pairs(
        self, batch: Batch, mr: torch.Tensor, made: Translation
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """F(D(x')) and x', made from the content of CT and the attributes of MR; only SRNet learns from them."""
        if self.loss_function.weights["translated"] == 0 or self.state.iteration <= self.warmup_iterations:
            return None
        assert self.operator is not None
        # without the DDP wrappers, so that the gradients of both passes through SRNet are added before averaging
        citnet, network = _bare(self.citnet), _bare(self.network)
        acquisition = told(batch, "ct")
        with torch.no_grad(), self._autocast():
            translated = citnet.mr.generator(made.content_ct, citnet.mr.attribute(mr)).float()
        thick = self.operator(translated, batch["ct_image"].shape[-1], *acquisition)
        with self._autocast():
            restored = network(thick.contiguous(memory_format=torch.channels_last), *acquisition)[:, :1].float()
        return restored, translated

    def _train_discriminators(self, mr: torch.Tensor, ct: torch.Tensor, made: Translation, steps: bool) -> None:
        """Maximise Eq. 5 and 6 over D_X and D_Y; all other networks stay fixed."""
        with self._autocast():
            judged_mr, judged_ct = self.discriminators(
                torch.cat([mr, made.ct_to_mr]).detach(), torch.cat([ct, made.mr_to_ct]).detach()
            )
        adversarial = self.loss_function.adversarial
        (real_mr, fake_mr), (real_ct, fake_ct) = _halves(judged_mr), _halves(judged_ct)
        loss = adversarial.discriminator(real_mr, fake_mr) + adversarial.discriminator(real_ct, fake_ct)
        self.state.output |= {
            "loss_discriminators": loss.detach(),
            "accuracy_mr": adversarial.accuracy(real_mr, fake_mr),
            "accuracy_ct": adversarial.accuracy(real_ct, fake_ct),
        }
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_LOSS_COMPLETED)
        self.gradient_scaler.scale(loss / self.accumulation_steps).backward()
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED)
        if steps:
            self.gradient_scaler.step(self.discriminator_optimizer)
            self.discriminator_optimizer.zero_grad()
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_MODEL_COMPLETED)

    def _train_generators(
        self,
        batch: Batch,
        mr: torch.Tensor,
        ct_restored: torch.Tensor | None,
        made: Translation,
        steps: bool,
    ) -> None:
        """Minimise Eq. 7 over encoders, generators and SRNet; the discriminators stay fixed."""
        judges = _bare(self.discriminators)
        judges.requires_grad_(False)
        judges_real = self.loss_function.judge_super_resolved
        with self._autocast():
            judged_mr, fake_ct = judges(torch.cat([mr, made.ct_to_mr]) if judges_real else made.ct_to_mr, made.mr_to_ct)
        real_mr, fake_mr = _halves(judged_mr) if judges_real else (None, [logits.float() for logits in judged_mr])
        judges.requires_grad_(True)
        with self._autocast():  # autocast is for phi; the losses themselves are computed in float32
            objective = self.loss_function(
                made,
                mr,
                batch["ct_label"],
                fake_mr,
                [logits.float() for logits in fake_ct],
                real_mr,
                mr_thick=batch["mr_image"],
                mr_told=told(batch, "mr"),
                ct_restored=ct_restored,
                translated=self._translated_pairs(batch, mr, made),
            )
        self.state.output |= {
            Keys.LOSS: objective.total.detach(),
            **{name: term.detach() for name, term in objective.terms.items()},
            "weighted": objective.weighted,
        }
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        del self.state.output["weighted"]
        self.gradient_scaler.scale(objective.total / self.accumulation_steps).backward()
        if steps:
            self.gradient_scaler.unscale_(self.optimizer)  # so handlers that clip or log see the true gradients
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if steps:
            self.gradient_scaler.step(self.optimizer)
            self.optimizer.zero_grad()


def detached(made: Translation) -> Translation:
    """The same tensors without their graph."""
    return Translation(*(tensor.detach() for tensor in made))


def _bare(module: nn.Module) -> Any:
    """The network itself, without its DDP wrapper."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def _halves(judged: list[torch.Tensor]) -> tuple[Logits, Logits]:
    """Split the logits of a batch, per scale, into those of its real half and those of its translated half."""
    halves = [logits.float().chunk(2) for logits in judged]
    return [half[0] for half in halves], [half[1] for half in halves]
