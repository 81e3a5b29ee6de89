# SPDX-License-Identifier: Apache-2.0
"""The adversarial loss of the rows that have one: Wasserstein distance with a gradient penalty.

A critic f is trained to make ``f(real) - f(fake)`` large while its gradient has norm 1 between the two (Gulrajani et
al., Improved Training of Wasserstein GANs, 2017, Eq. 3). The generator minimises ``-f(fake)``.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Critic", "patch_critic"]


def patch_critic(width: int, layers: int, dimensions: int) -> nn.Sequential:
    """Strided convolutions with leaky ReLU that judge patches of an image. The penalty forbids normalisation.

    Args:
        width: channels of the first layer; every further layer doubles them.
        layers: convolutions of stride 2.
        dimensions: 2 or 3.
    """
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
    parts: list[nn.Module] = []
    channels = 1
    for layer in range(layers):
        parts += [convolution(channels, width * 2**layer, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width * 2**layer
    return nn.Sequential(*parts, convolution(channels, 1, 1))


class Critic:
    """A critic with its optimiser.

    Args:
        network: maps ``(B, 1, ...)`` to scores of any shape; trained in place.
        learning_rate: learning rate of Adam, with the betas (0, 0.9) of the paper.
        penalty: weight of the gradient penalty.
    """

    def __init__(self, network: nn.Module, learning_rate: float, penalty: float = 10.0) -> None:
        self.network = network
        self.penalty = penalty
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.0, 0.9))

    def step(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        """Make one step of the critic."""
        real, fake = real.detach().float(), fake.detach().float()
        with torch.autocast(real.device.type, enabled=False):  # the penalty is a second derivative
            share = torch.rand([len(real)] + [1] * (real.ndim - 1), device=real.device)
            between = (share * real + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(self.network(between).mean(), between, create_graph=True)
            # the mean over the scores of an item is its critic; times B, because the mean was also over the batch
            norm = (len(real) * slope).flatten(1).norm(dim=1)
            loss = self.network(fake).mean() - self.network(real).mean() + self.penalty * (norm - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def fool(self, fake: torch.Tensor) -> torch.Tensor:
        """Loss of the generator. The next step of the critic clears the gradient that this leaves in the critic."""
        return -self.network(fake).mean()
