# SPDX-License-Identifier: Apache-2.0
"""mDCSRN-GAN: densely connected blocks on several levels, trained with a critic. Supervised, 3D.

Re-implementation from Y. Chen et al., Efficient and Accurate MRI Super-Resolution Using a Generative Adversarial
Network and 3D Multi-level Densely Connected Network, MICCAI 2018 ("b4u4": four blocks of four units, k = 16): a first
convolution to ``2 k`` channels; before each further block a 1 x 1 x 1 convolution compresses the outputs of all blocks
before it to ``2 k``; a 1 x 1 x 1 convolution reconstructs from all. Trained with the intensity loss alone, then with
``L = L_intensity + 0.001 L_WGAN-GP`` (section 2.3).

Differences from the paper: the critic is a small patch critic instead of SRGAN's classifier, with fewer steps of the
critic per step of the network. The network predicts the difference from cubic interpolation. The sizes are in the
table's JSON. A critic makes images look real, but not more accurate: expect a lower PSNR than without it
(``adversarial_weight`` 0).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from scripts.degradation import SliceProfileOperator
from torch import nn
from torch.nn import functional as F

from .adversarial import Critic, patch_critic
from .dcsrn import DenseBlock
from .scan import InterpolatedInput, started_small
from .training import train_within
from .volume import VolumeLearner

__all__ = ["MDCSRN", "MDCSRNGAN"]


class _Body(nn.Module):
    def __init__(self, growth: int, units: int, blocks: int) -> None:
        super().__init__()
        wide = 2 * growth
        self.head = nn.Conv3d(1, wide, 3, padding=1)
        dense = [DenseBlock(wide, growth, units) for _ in range(blocks)]
        self.blocks, added = nn.ModuleList(dense), dense[0].channels
        self.compress = nn.ModuleList(nn.Conv3d(wide + i * added, wide, 1) for i in range(1, blocks))
        self.tail = started_small(nn.Conv3d(wide + blocks * added, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.head(image)
        seen = x
        for index, block in enumerate(self.blocks):
            if index:
                x = self.compress[index - 1](seen)
            seen = torch.cat([seen, block(x)], dim=1)
        return self.tail(seen)


class MDCSRN(InterpolatedInput):
    """Dense blocks on several levels.

    Args:
        growth: k.
        units: number of units per block.
        blocks: b, number of blocks.
    """

    def __init__(self, growth: int, units: int, blocks: int) -> None:
        super().__init__(_Body(growth, units, blocks))


class MDCSRNGAN(VolumeLearner):
    """Train with the intensity loss alone, then together with a critic.

    Args:
        network: :class:`MDCSRN`.
        pretraining: share of the budget without the critic.
        adversarial_weight: weight of the adversarial loss; the intensity loss has weight 1.
        critic_width: channels of the critic's first layer.
        critic_layers: number of the critic's strided convolutions.
        learner: further arguments of :class:`VolumeLearner`.
    """

    def __init__(
        self,
        network: nn.Module,
        pretraining: float,
        adversarial_weight: float,
        critic_width: int,
        critic_layers: int,
        **learner: Any,
    ) -> None:
        super().__init__(network, **learner)
        self.pretraining = pretraining
        self.adversarial_weight = adversarial_weight
        self.critic = patch_critic(critic_width, critic_layers, dimensions=3)

    def train(
        self,
        volumes: Sequence[tuple[torch.Tensor, Sequence[float]]],
        operator: SliceProfileOperator,
        budget_s: float,
        seed: int,
        device: torch.device,
        autocast: str | None,
    ) -> nn.Module:
        """Train both parts; return the network."""
        first_s = budget_s * self.pretraining
        network = super().train(volumes, operator, first_s, seed, device, autocast)
        critic = Critic(copy.deepcopy(self.critic).to(device), self.learning_rate)
        draw = self.source(volumes, operator, seed + 1, device)

        def loss() -> torch.Tensor:
            thick, thin, positions, condition = draw()
            made = network(thick, positions, condition)
            critic.step(thin, made)
            return F.l1_loss(made, thin) + self.adversarial_weight * critic.fool(made)

        train_within(network, loss, self.learning_rate / 2, budget_s - first_s, "mDCSRN-GAN", autocast)
        return network
