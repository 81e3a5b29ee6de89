# SPDX-License-Identifier: Apache-2.0
"""CITNet: translation between CT and MR through a shared content space (paper, section 2.2).

X is the MR domain, Y the CT domain. One forward pass makes every code and every image that occurs in Eq. 1 to 6. Images
that go through the same network at the same time form one batch, so each network runs as rarely as possible.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .encoders import AttributeEncoder, ContentEncoder
from .generator import Generator

__all__ = ["CITNet", "Domain", "Translation"]


class Translation(NamedTuple):
    """Everything that one pass through CITNet makes; images have the shape ``(B, 1, H, W)``.

    Attributes:
        content_mr: C_x of the MR image, ``(B, C, H / 4, W / 4)``.
        content_ct: C_y of the CT image.
        content_mr_again: C_x recovered from the CT image made of it.
        content_ct_again: C_y recovered from the MR image made of it.
        attribute_mr: the MR attribute code from which ``ct_to_mr`` is made, ``(B, A)``.
        attribute_ct: A'_y, the CT attribute code from which ``mr_to_ct`` is made.
        attribute_mr_again: ``attribute_mr`` recovered from ``ct_to_mr``.
        attribute_ct_again: the same for CT.
        mr_self: the MR image decoded from its own two codes (Eq. 1).
        ct_self: the CT image decoded from its own two codes.
        mr_to_ct: y', the MR image's content with a CT attribute from the prior.
        ct_to_mr: x', the CT image's content with an MR attribute, from the prior or the MR image's own.
        mr_cycle: the MR image decoded from ``content_mr_again`` and its own attribute code (Eq. 2).
        ct_cycle: the CT image decoded from ``content_ct_again`` and its own attribute code.
    """

    content_mr: torch.Tensor
    content_ct: torch.Tensor
    content_mr_again: torch.Tensor
    content_ct_again: torch.Tensor
    attribute_mr: torch.Tensor
    attribute_ct: torch.Tensor
    attribute_mr_again: torch.Tensor
    attribute_ct_again: torch.Tensor
    mr_self: torch.Tensor
    ct_self: torch.Tensor
    mr_to_ct: torch.Tensor
    ct_to_mr: torch.Tensor
    mr_cycle: torch.Tensor
    ct_cycle: torch.Tensor


class Domain(nn.Module):
    """The three networks of one modality: E^C, E^A and G.

    Args:
        width: channels at full resolution, 64 in MUNIT.
        attribute_channels: length of the attribute code, 8 in the paper.
        residual_blocks: number of residual blocks in the encoder and in the generator, 4 in MUNIT.
        perceptron_width: hidden width of the generator's perceptron, 256 in MUNIT.
    """

    def __init__(self, width: int, attribute_channels: int, residual_blocks: int, perceptron_width: int) -> None:
        super().__init__()
        self.content = ContentEncoder(width, residual_blocks)
        self.attribute = AttributeEncoder(width, attribute_channels)
        self.generator = Generator(width, attribute_channels, residual_blocks, perceptron_width)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Decode an image from its own codes."""
        return self.generator(self.content(image), self.attribute(image))


class CITNet(nn.Module):
    """The networks of both domains.

    Args:
        width: see :class:`Domain`.
        attribute_channels: see :class:`Domain`.
        residual_blocks: see :class:`Domain`.
        perceptron_width: see :class:`Domain`.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, width: int, attribute_channels: int, residual_blocks: int, perceptron_width: int) -> None:
        super().__init__()
        for name, value in (
            ("width", width),
            ("attribute_channels", attribute_channels),
            ("residual_blocks", residual_blocks),
            ("perceptron_width", perceptron_width),
        ):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}; correct citnet_def")
        self.mr = Domain(width, attribute_channels, residual_blocks, perceptron_width)
        self.ct = Domain(width, attribute_channels, residual_blocks, perceptron_width)
        # Both domains start with the same weights, so that a content code means the same in both from the first
        # iteration. With different weights, air in one domain may become tissue in the other, and neither a cycle
        # loss nor a patch discriminator corrects that.
        self.ct.load_state_dict(self.mr.state_dict())

    def forward(
        self,
        mr: torch.Tensor,
        ct: torch.Tensor,
        prior_mr: torch.Tensor,
        prior_ct: torch.Tensor,
        own_attribute: bool = False,
    ) -> Translation:
        """Encode, reconstruct, translate, and translate back.

        Args:
            mr: x~_H, ``(B, 1, H, W)`` with H and W multiples of 4 and at least 16, about [-1, 1].
            ct: y_H, same shape, unpaired.
            prior_mr: A'_x, ``(B, A)`` drawn from N(0, I).
            prior_ct: A'_y, same shape.
            own_attribute: make x' from the MR image's own attribute code (section 1 of the paper) instead of A'_x.

        Raises:
            ValueError: if the images differ in shape or do not fit the grid.
        """
        if mr.shape != ct.shape:
            raise ValueError(f"MR and CT batch must have one shape, got {list(mr.shape)} and {list(ct.shape)}")
        if mr.shape[2] % 4 or mr.shape[3] % 4 or min(mr.shape[2], mr.shape[3]) < 16:
            raise ValueError(f"height and width must be multiples of 4 and >= 16, got {list(mr.shape[2:])}")
        content_ct = self.ct.content(ct)
        own_mr, own_ct = self.mr.attribute(mr), self.ct.attribute(ct)
        attribute_mr = own_mr if own_attribute else prior_mr
        ct_to_mr = self.mr.generator(content_ct, attribute_mr)
        attribute_mr_again = self.mr.attribute(ct_to_mr)
        content_mr, content_ct_again = self.mr.content(torch.cat([mr, ct_to_mr])).chunk(2)

        mr_to_ct, ct_self, ct_cycle = self.ct.generator(
            torch.cat([content_mr, content_ct, content_ct_again]),
            torch.cat([prior_ct, own_ct, own_ct]),
        ).chunk(3)

        content_mr_again = self.ct.content(mr_to_ct)
        attribute_ct_again = self.ct.attribute(mr_to_ct)
        mr_self, mr_cycle = self.mr.generator(
            torch.cat([content_mr, content_mr_again]), torch.cat([own_mr, own_mr])
        ).chunk(2)
        return Translation(
            content_mr=content_mr,
            content_ct=content_ct,
            content_mr_again=content_mr_again,
            content_ct_again=content_ct_again,
            attribute_mr=attribute_mr,
            attribute_ct=prior_ct,
            attribute_mr_again=attribute_mr_again,
            attribute_ct_again=attribute_ct_again,
            mr_self=mr_self,
            ct_self=ct_self,
            mr_to_ct=mr_to_ct,
            ct_to_mr=ct_to_mr,
            mr_cycle=mr_cycle,
            ct_cycle=ct_cycle,
        )
