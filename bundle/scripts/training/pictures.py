# SPDX-License-Identifier: Apache-2.0
"""Pictures of translation between MR and CT (Fig. 4 of the paper), during training and from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from torch import nn

from ..networks.citnet import Translation
from .acquisition import told
from .checkpoint import load_newest

__all__ = ["COLUMNS", "TranslationPictures", "translation_grid"]

COLUMNS = ("MR, super-resolved", "itself", "cycle", "as CT", "CT", "itself", "cycle", "as MR")


def translation_grid(mr: torch.Tensor, ct: torch.Tensor, made: Translation) -> torch.Tensor:
    """Arrange the images in one row per pair, with the columns of :data:`COLUMNS`.

    Args:
        mr: x~_H, ``(B, 1, H, W)`` about [-1, 1].
        ct: y_H, same shape.
        made: result of CITNet for these images.

    Returns:
        ``(1, B * H, 8 * W)`` in [0, 1].
    """
    columns = [mr, made.mr_self, made.mr_cycle, made.mr_to_ct, ct, made.ct_self, made.ct_cycle, made.ct_to_mr]
    rows = torch.cat(columns, dim=-1)  # (B, 1, H, 8 W)
    return torch.cat(list(rows.float().cpu()), dim=-2).add(1).div(2).clamp(0, 1)


class TranslationPictures:
    """Draw the same few patches at intervals.

    Args:
        network: SRNet.
        citnet: CITNet.
        dataset: unpaired patches; the first ``count`` of them that share one K are drawn.
        count: number of rows of the picture.
        interval: iterations between pictures during training.
        writer: TensorBoard writer, or ``None`` to draw nothing during training.
        own_attribute: translate CT with the attribute code of the MR image of its pair, not with a draw from the prior.
    """

    def __init__(
        self,
        network: nn.Module,
        citnet: nn.Module,
        dataset: Sequence[dict[str, torch.Tensor]],
        count: int,
        interval: int,
        writer: Any | None,
        own_attribute: bool = False,
    ) -> None:
        self.network = network
        self.citnet = citnet
        items = [dataset[index] for index in range(min(count, len(dataset)))]
        items = [item for item in items if item["mr_image"].shape == items[0]["mr_image"].shape]
        keys = ("mr_image", "mr_positions", "mr_condition", "ct_label", "mr_attribute", "ct_attribute")
        device = next(network.parameters()).device
        self.batch = {key: torch.stack([item[key] for item in items]).to(device) for key in keys}
        self.interval = interval
        self.writer = writer
        self.own_attribute = own_attribute

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.writer is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Any) -> None:
        """Write one picture into TensorBoard."""
        tag = "translation/mr_self_cycle_ct__ct_self_cycle_mr"
        self.writer.add_image(tag, self.draw(), engine.state.iteration)  # type: ignore[union-attr]

    @torch.no_grad()
    def draw(self) -> torch.Tensor:
        """The picture that the networks make in their current state; see :func:`translation_grid`."""
        mr = self.network(self.batch["mr_image"], *told(self.batch, "mr"))[:, :1].float()
        ct = self.batch["ct_label"]
        priors = self.batch["mr_attribute"], self.batch["ct_attribute"]
        return translation_grid(mr, ct, self.citnet(mr, ct, *priors, self.own_attribute))

    def write(self, folder: str, stage: str, path: str) -> None:
        """Load the newest checkpoint and write the picture as a PNG file.

        Args:
            folder: folder of the checkpoints.
            stage: name of the stage.
            path: path of the PNG file.

        Raises:
            FileNotFoundError: if there is no checkpoint.
        """
        load_newest(folder, stage, {"network": self.network, "citnet": self.citnet})
        picture = self.draw()[0].cpu().numpy()
        height, width = picture.shape
        figure = Figure(figsize=(12, 12 * height / width + 0.4), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set_xticks([(column + 0.5) * width / len(COLUMNS) for column in range(len(COLUMNS))], COLUMNS)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_yticks([])
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
