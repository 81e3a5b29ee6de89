# SPDX-License-Identifier: Apache-2.0
"""Our own method as rows: the bundle's training commands, ended by :class:`scripts.training.budget.ProcessorBudget`.

The commands' start (imports, reading the volumes) is left out of the budget, as it is for the peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tools.run_bundle import run_bundle

__all__ = ["train_ours"]

FOLDER = Path(__file__).parent


def train_ours(shares: Sequence[float], output: Path, budget_s: float, ids: dict[str, Any]) -> Path:
    """Train the first ``len(shares)`` stages.

    Args:
        shares: of the budget, one per stage.
        output: for this row alone; a stage that is there is not trained again.
        budget_s: processor seconds.
        ids: overrides; ``stage2_variant`` goes to its own stage, ``stage3_variant`` ``paper`` takes
            ``stage3_paper.json``.

    Returns:
        The weights' file.
    """
    for stage, share in enumerate(shares, start=1):
        weights = output / f"stage{stage}.pt"
        if weights.exists():
            continue
        configs = ["common.json", f"train_stage{stage}.json", str(FOLDER / "ours.json")]
        if stage == 3 and not torch.cuda.is_available():
            configs.append(str(FOLDER / "ours_stage3.json"))
        if stage == 3 and ids.get("stage3_variant") == "paper":
            configs.append("stage3_paper.json")
        wanted = {k: v for k, v in ids.items() if not k.startswith("stage") or (k == "stage2_variant" and stage == 2)}
        run_bundle(configs, "training", output_dir=output, budget_s=budget_s * share, **wanted)
    return weights
