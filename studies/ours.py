# SPDX-License-Identifier: Apache-2.0
"""Rows of our own method: the bundle's training commands, ended by :class:`scripts.training.budget.ProcessorBudget`.

The start of the commands (imports, reading of volumes) does not count towards the budget, as for the peers.
``ours_adapted`` is the shipped network, adapted to each scan until the budget is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scripts.inference.adaptation import InPlaneAdaptation
from scripts.training.budget import processor_seconds
from torch import nn

from studies.peers.scan import Scan, as_inputs, both_orientations
from tools.run_bundle import run_bundle

__all__ = ["Adapted", "train_ours"]

FOLDER = Path(__file__).parent


def train_ours(shares: Sequence[float], output: Path, budget_s: float, ids: dict[str, Any]) -> Path:
    """Train the first ``len(shares)`` stages.

    Args:
        shares: share of the budget for each stage.
        output: folder for this row alone; a finished stage in it is not trained again.
        budget_s: processor seconds.
        ids: overrides; ``paper_stages`` lists the stages that take ``stage2_paper.json`` or ``stage3_paper.json``.

    Returns:
        The file of the weights.
    """
    for stage, share in enumerate(shares, start=1):
        weights = output / f"stage{stage}.pt"
        if weights.exists():
            continue
        configs = ["common.json", f"train_stage{stage}.json", str(FOLDER / "ours.json")]
        if stage == 3:
            configs.append(str(FOLDER / "ours_stage3.json"))
            if not torch.cuda.is_available():
                configs.append(str(FOLDER / "ours_stage3_cpu.json"))
        if stage in ids.get("paper_stages", ()):
            configs.append(f"stage{stage}_paper.json")
        wanted = {key: value for key, value in ids.items() if key != "paper_stages"}
        run_bundle(configs, "training", output_dir=output, budget_s=budget_s * share, **wanted)
    return weights


class Adapted:
    """The shipped network, adapted to each scan with as many steps as fit into the budget.

    Args:
        network: the shipped network.
        adaptation: adaptation of the bundle, whose number of iterations is set here.
    """

    def __init__(self, network: nn.Module, adaptation: InPlaneAdaptation) -> None:
        self.network = network
        self.adaptation = adaptation

    def train(self, scan: Scan, budget_s: float, seed: int, device: torch.device, autocast: str | None) -> nn.Module:
        """Adapt a copy, and return it or the network itself; ``seed`` and ``autocast`` are those of the adaptation."""
        inputs, network = as_inputs(scan).to(device), self.network.to(device).eval()

        def adapt(iterations: int) -> tuple[nn.Module, float]:
            started = processor_seconds(device)
            self.adaptation.iterations = iterations
            adapted = self.adaptation(network, inputs)
            assert isinstance(adapted, nn.Module)  # a copy of the network, or itself
            return adapted, processor_seconds(device) - started

        # two short trials, since judging takes long, whatever the number of steps, and is no part of a step's time
        (_, nine), (_, one) = adapt(9), adapt(1)
        step = max((nine - one) / 8, nine / 40)
        return adapt(max(1, int((budget_s - nine - one - (one - step)) / step)))[0]

    def apply(self, network: nn.Module, scan: Scan) -> torch.Tensor:
        """``(H1, H2, n_thin)``."""
        return both_orientations(network, scan)
