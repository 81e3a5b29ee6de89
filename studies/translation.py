# SPDX-License-Identifier: Apache-2.0
"""Quality of the translation: CITNet on made-up patients, whose MR and CT correspond. Training does not use this.

For each seed, three stages are trained on CT and thick MR of patients. The CT slices of another patient are then
translated with the attribute code of their MR and compared with the true MR. In addition, the content codes of
corresponding slices are correlated, and those of random pairs for comparison. Writes ``translation.json``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scripts.files import write_json
from scripts.intensity import ct_to_unit, mr_intensity_range
from scripts.networks.citnet import CITNet
from scripts.training.checkpoint import load_newest

from phantom.patient import make_patient
from tools.run_bundle import BUNDLE, ROOT, run_bundle

SIZES = [str(ROOT / "studies" / name) for name in ("small.json", "translation.json")]


def held_out_slices(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(count, 1, H, W)`` MR and CT slices of one patient in unit range; H and W are multiples of 4."""
    patient = make_patient(seed, (72, 80, 72), (1.4, 1.4, 1.4), contrast="t1")
    mr = torch.from_numpy(patient.mr)
    mr = mr_intensity_range(mr, 0.5, 99.5).to_unit(mr)
    ct = ct_to_unit(torch.from_numpy(patient.ct), (-1000, 1000), -1500)
    places = np.linspace(0.3, 0.7, count) * mr.shape[1]
    mr_slices, ct_slices = (torch.stack([volume[:, int(j)] for j in places])[:, None] for volume in (mr, ct))
    return mr_slices, ct_slices


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson correlation of each pair of codes, ``(n,)``."""
    a, b = (x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)


@torch.no_grad()
def judge(citnet: CITNet, mr: torch.Tensor, ct: torch.Tensor) -> dict[str, float]:
    """Errors and correlations on corresponding slices."""
    content_ct, content_mr = citnet.ct.content(ct), citnet.mr.content(mr)
    translated = citnet.mr.generator(content_ct, citnet.mr.attribute(mr))
    shift = len(mr) // 2
    return {
        "error_of_ct": float((ct - mr).abs().mean()),
        "error_of_translated_ct": float((translated - mr).abs().mean()),
        "content_correlation_corresponding": float(correlation(content_mr, content_ct).mean()),
        "content_correlation_random": float(correlation(content_mr, content_ct.roll(shift, 0)).mean()),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--iterations", type=int, nargs=3, default=(60, 60, 600), help="of stages 1, 2 and 3")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    if not (output / "data" / "ct").is_dir():
        command = [
            sys.executable,
            "-m",
            "phantom",
            "--output",
            str(output / "data"),
            "--patients",
            str(arguments.patients),
        ]
        subprocess.run(command, check=True, cwd=ROOT)
    mr, ct = held_out_slices(seed=1000, count=12)
    results = {}
    for seed in arguments.seeds:
        folder = output / f"seed{seed}"
        for stage, iterations in enumerate(arguments.iterations, start=1):
            if not (folder / f"stage{stage}.pt").exists():
                # the study is about CITNet, so divergence of another network must not stop it
                watch: dict[str, Any] = {"max_gradient_growth": 1e9, "max_period_peak": 1e9} if stage > 1 else {}
                run_bundle(
                    ["common.json", f"train_stage{stage}.json", *SIZES], "training", ct_dir=output / "data" / "ct",
                    mr_dir=output / "data" / "mr", output_dir=folder, stage_iterations=iterations, seed=seed, **watch,
                )  # fmt: skip
        torch.manual_seed(seed)
        parser_ = ConfigParser()
        parser_.read_config([str(BUNDLE / "configs" / n) for n in ("common.json", "train_stage3.json")] + SIZES)
        citnet = parser_.get_parsed_content("citnet_def").eval()
        untrained = judge(citnet, mr, ct)
        load_newest(str(folder / "checkpoints"), "stage3", {"citnet": citnet})
        results[seed] = {"trained": judge(citnet, mr, ct), "untrained": untrained}
    write_json(output / "translation.json", results)
    print(
        "| seed | error of the CT | of the CT as MR | content correlation, corresponding | random |\n"
        "|---|---|---|---|---|"
    )
    for seed, result in results.items():
        values = result["trained"]
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")


if __name__ == "__main__":
    main()
