# SPDX-License-Identifier: Apache-2.0
"""The benefit of CT guidance: variants of stages 2 and 3 on made-up people, with the same processor seconds in total.

Training CT, training MR and test data come from different people. In the setting ``coarse``, the MR scanner resolves
only 2.5 pixels within its slices, so that in-plane pairs have no sharp target. In ``fine``, it resolves every pixel.
The networks are those of ``small.json``; the acquisition and the budget are those of ``guidance.json``. Each file in
the folder ``guidance`` is a variant, which gives the share of the time and the overridden ids for every stage.

Variants whose first stages are identical share the weights of these stages, but the full time counts for each variant.
Finished parts are not repeated, so that the study can be interrupted. Writes a record per run, and ``guidance.md`` from
all records.

    python -m studies.guidance --output OUT
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from scipy.ndimage import gaussian_filter1d
from scripts.degradation import FWHM_PER_SIGMA, SliceProfileOperator
from scripts.evaluation.metrics import psnr
from scripts.files import whole, write_json, write_text
from scripts.geometry import SliceGrid
from scripts.intensity import ct_to_unit, mr_intensity_range
from scripts.losses.translated import sharpness
from scripts.training.checkpoint import load_newest
from scripts.training.weights import load_weights
from scripts.transforms.degrade import thicken

from phantom.anatomy import Anatomy, make_anatomy
from phantom.patient import ct_image, mr_image, oblique_affine
from studies.peers.interpolation import bicubic
from studies.peers.scan import Scan, both_orientations
from studies.translation import correlation
from tools.run_bundle import BUNDLE, ROOT

OVERRIDES = [str(ROOT / "studies" / name) for name in ("small.json", "guidance.json")]
VARIANTS = ("base", "r1", "r2", "anchored", "r1_r2", "paper")  # the most important variants first
SETTINGS = {"coarse": 2.5, "fine": 0.0}  # in-plane FWHM of the MR scanner in pixels
SHAPE, SPACING_MM, SCALE_FACTOR, TEST_ROWS = (84, 96, 84), (1.2, 1.2, 1.2), 4, 32
FIRST_PERSON = {("ct",): 0, ("mr",): 100, ("test/mr", "test/ct"): 1000}  # folders: first seed of these people
NOISE = 12.0


def scan_mr(anatomy: Anatomy, seed: int, fwhm_pixels: float) -> np.ndarray:
    """The thin MR of a person, blurred along both in-plane axes before noise is added."""
    signal = mr_image(anatomy, seed, ("t1", "t2")[seed % 2], noise=0.0)
    if fwhm_pixels:
        for axis in (0, 1):
            signal = gaussian_filter1d(signal, fwhm_pixels / FWHM_PER_SIGMA, axis=axis, mode="nearest")
    real, imaginary = NOISE * np.random.default_rng([seed, 3]).standard_normal((2, *SHAPE), dtype=np.float32)
    return np.hypot(signal + real, imaginary)


def make_people(output: Path, fwhm_pixels: float, count: int) -> None:
    """Write ``ct/``, thick ``mr/``, and ``test/mr/`` with ``test/ct/`` (thin, middle rows), all of different people."""
    affine = oblique_affine(SHAPE, SPACING_MM, (6.0, -4.0, 3.0))
    middle = slice((SHAPE[0] - TEST_ROWS) // 2, (SHAPE[0] + TEST_ROWS) // 2)
    for folders, first in FIRST_PERSON.items():
        for seed in range(first, first + count):
            paths = [output / folder / f"phantom{seed:04d}.nii.gz" for folder in folders]
            if all(path.exists() for path in paths):
                continue
            anatomy = make_anatomy(seed, SHAPE, SPACING_MM)
            for folder, path in zip(folders, paths, strict=True):
                is_ct, grid = folder.endswith("ct"), affine
                volume = ct_image(anatomy, seed) if is_ct else scan_mr(anatomy, seed, fwhm_pixels)
                if folder == "mr":
                    volume, grid = thicken(volume, affine, scale_factor=SCALE_FACTOR, thick_axis=2)
                if folder.startswith("test"):
                    volume = volume[middle]
                with whole(path) as part:
                    nib.save(nib.Nifti1Image(np.rint(volume).astype(np.int16), grid), part)


def read_variant(name: str) -> list[dict[str, Any]]:
    """Read the stages of a variant: ``share`` of the budget, further ``configs`` of the bundle, and overridden ids."""
    content = json.loads((ROOT / "studies" / "guidance" / f"{name}.json").read_text())
    stages: list[dict[str, Any]] = content["stages"]
    total = sum(stage["share"] for stage in stages)
    if abs(total - 1) > 1e-9:
        raise ValueError(f"the shares of {name} must add up to 1, got {total:g}; correct {name}.json")
    return stages


def train(data: Path, output: Path, stages: Sequence[dict[str, Any]], budget_s: float, seed: int) -> Path:
    """Train the stages that are not finished; return the weights.

    The name of a stage's folder depends on all stages up to it, so that variants share the stages they have in common.
    """
    weights: Path | None = None
    for number in range(1, len(stages) + 1):
        key = json.dumps([list(stages[:number]), budget_s], sort_keys=True)
        folder = output / f"seed{seed}" / hashlib.sha256(key.encode()).hexdigest()[:12]
        before, weights = weights, folder / f"stage{number}.pt"
        if weights.exists():
            continue
        ids = {k: v for k, v in stages[number - 1].items() if k not in ("share", "configs")}
        if before is not None:
            ids[f"stage{number - 1}_weights"] = str(before)
        before_sizes, after_sizes = ["common.json", f"train_stage{number}.json"], stages[number - 1].get("configs", [])
        discriminators = [str(ROOT / "studies" / "ours_stage3.json")] if number == 3 else []  # their rate falls, too
        workflow = ConfigWorkflow(
            config_file=[*_bundle(before_sizes), *OVERRIDES, *discriminators, *_bundle(after_sizes)],
            workflow_type="train",
            logging_file=False,
            bundle_root=str(BUNDLE),
            ct_dir=str(data / "ct"),
            mr_dir=str(data / "mr"),
            output_dir=str(folder),
            seed=seed,
            device="cpu",
            budget_s=budget_s * stages[number - 1]["share"],
            **ids,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    assert weights is not None
    return weights


def _bundle(names: Sequence[str]) -> list[str]:
    return [str(BUNDLE / "configs" / name) for name in names]


def build(definition: str) -> Any:
    """Build ``network_def`` or ``citnet_def`` with the sizes of the study."""
    parser = ConfigParser()
    parser.read_config([*_bundle(["common.json", "train_stage3.json"]), *OVERRIDES])
    return parser.get_parsed_content(definition)


def score(weights: Path, test: Path) -> dict[str, float]:
    """Gain over cubic in dB for each person, after data consistency."""
    network, gains = load_weights(build("network_def"), str(weights)).eval(), {}
    for path in sorted((test / "mr").glob("*.nii.gz")):
        truth = torch.from_numpy(nib.load(path).get_fdata(dtype=np.float32))
        operator = SliceProfileOperator(SliceGrid.over_slab(truth.shape[-1] // SCALE_FACTOR, SCALE_FACTOR))
        truth = mr_intensity_range(truth, 0.5, 99.5).to_unit(truth)
        spacing_mm = (SPACING_MM[0], SPACING_MM[1], SPACING_MM[2] * SCALE_FACTOR)
        scan = Scan(operator.degrade(truth), spacing_mm, operator)
        with torch.no_grad():
            ours = operator.enforce(both_orientations(network, scan), scan.image)
        cubic, thin, data_range = bicubic(scan).numpy(), truth.numpy(), float(truth.max() - truth.min())
        gains[path.name.removesuffix(".nii.gz")] = psnr(ours.numpy(), thin, data_range) - psnr(cubic, thin, data_range)
    return gains


@torch.no_grad()
def judge_translation(folder: Path, test: Path) -> dict[str, float]:
    """Translate the CT slices of the test people with the attribute code of their MR, and compare with this MR."""
    citnet = build("citnet_def").eval()
    load_newest(str(folder / "checkpoints"), "stage3", {"citnet": citnet})
    mr, ct = [], []
    for path in sorted((test / "mr").glob("*.nii.gz")):
        volumes = [
            torch.from_numpy(nib.load(test / kind / path.name).get_fdata(dtype=np.float32)) for kind in ("mr", "ct")
        ]
        mr.append(mr_intensity_range(volumes[0], 0.5, 99.5).to_unit(volumes[0])[TEST_ROWS // 2])
        ct.append(ct_to_unit(volumes[1], (-1000, 1000), -1500)[TEST_ROWS // 2])
    mr_slices, ct_slices = torch.stack(mr)[:, None], torch.stack(ct)[:, None]
    translated = citnet.mr.generator(citnet.ct.content(ct_slices), citnet.mr.attribute(mr_slices))
    return {
        "error_of_ct": float((ct_slices - mr_slices).abs().mean()),
        "error_of_translated_ct": float((translated - mr_slices).abs().mean()),
        "correlation_with_ct": float(correlation(translated, ct_slices).mean()),
        "sharpness_over_that_of_ct": float((sharpness(translated) / sharpness(ct_slices)).mean()),
    }


def table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown table of the gain over cubic and the difference to ``base``, for every setting and variant.

    Differences are between runs with the same seed; the spread is the standard deviation over the seeds.
    """
    gains: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        mean = float(np.mean(list(record["gains_db"].values())))
        gains.setdefault((record["setting"], record["variant"]), {})[record["seed"]] = mean
    lines = ["| MR | variant | seeds | gain over cubic, dB | over `base`, dB | each seed |", "|---" * 6 + "|"]
    order = {name: place for place, name in enumerate(VARIANTS)}
    for setting, variant in sorted(gains, key=lambda key: (list(SETTINGS).index(key[0]), order[key[1]])):
        values, base = gains[setting, variant], gains.get((setting, "base"), {})
        differences = [values[seed] - base[seed] for seed in sorted(values) if seed in base]
        over = "" if variant == "base" else _mean_and_spread(differences)
        each = "" if variant == "base" else ", ".join(f"{d:+.3f}" for d in differences)
        gain = _mean_and_spread(list(values.values()))
        lines.append(f"| {setting} | `{variant}` | {len(values)} | {gain} | {over} | {each} |")
    return lines


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.3f}{spread}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--people", type=int, default=6, help="number of people with CT, with MR, and for the test")
    parser.add_argument("--budget", type=float, default=60.0, help="processor seconds of all stages together")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    for setting in arguments.settings:
        data = output / setting / "data"
        make_people(data, SETTINGS[setting], arguments.people)
        for variant in arguments.variants:
            for seed in arguments.seeds:
                path = output / setting / "records" / f"{variant}_seed{seed}.json"
                if path.exists():
                    continue
                weights = train(data, output / setting, read_variant(variant), arguments.budget, seed)
                record: dict[str, Any] = {"setting": setting, "variant": variant, "seed": seed}
                record |= {"budget_s": arguments.budget, "gains_db": score(weights, data / "test")}
                if weights.name == "stage3.pt":
                    record["translation"] = judge_translation(weights.parent, data / "test")
                write_json(path, record)
                records = [json.loads(p.read_text()) for p in sorted(output.glob("*/records/*.json"))]
                write_text(output / "guidance.md", "\n".join(table(records)) + "\n")
    print((output / "guidance.md").read_text(), end="")


if __name__ == "__main__":
    main()
