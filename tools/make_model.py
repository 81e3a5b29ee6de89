# SPDX-License-Identifier: Apache-2.0
"""Train the shipped weights from the public data, by one seeded recipe that can be interrupted and resumed.

Each data folder has a ``MANIFEST.csv`` with the columns ``path``, ``modality`` and ``use``; only rows whose use is
``train`` and whose licence allows shipped weights are taken. High-resolution MR is never shown to the network: each
such volume is first made into three thick stacks, axial, sagittal and coronal, as a clinic would have acquired them.

With ``--iterations 0 N --set start_weights=FILE``, stage 2 goes on from older weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scripts.files import whole, write_json
from scripts.transforms.degrade import thicken

from tools.run_bundle import BUNDLE, ROOT, accept_overrides, run_bundle

RECIPE = ROOT / "tools" / "recipe.json"
WHO = ROOT / "tools" / "model_data.json"
THICK = 4  # thin slices per slice of a stack made of a high-resolution MR


def patient_of(name: str, modality: str, who: dict[str, Any]) -> tuple[str, str]:
    """Anatomy and patient of a file.

    Args:
        name: name of the file.
        modality: ``ct`` or ``mr``.
        who: content of ``model_data.json``.

    Raises:
        ValueError: for a file that is not in it.
    """
    for anatomy, group in who[modality].items():
        for patient in group["patients"]:
            if name.startswith(patient):
                return anatomy, patient
    raise ValueError(f"training files must be those that {WHO.name} knows, got {name}; add its patient there")


def prepare(folders: list[Path], output: Path) -> Path:
    """Lay out ``ct/`` and ``mr/`` and the datalist under ``output``; returns the datalist's path."""
    who = json.loads(WHO.read_text())
    datalist: dict[str, dict[str, list[dict[str, Any]]]] = {
        modality: {"training": [], "validation": []} for modality in ("ct", "mr")
    }
    for data in folders:
        with (data / "MANIFEST.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["use"].startswith("train")]
        for row in rows:
            if "weights may ship" not in row["use"]:
                continue
            modality = row["modality"].lower()
            for target in place(data / row["path"], output / modality, "mr_hr" in row["path"]):
                anatomy, patient = patient_of(target.name, modality, who)
                part = "validation" if patient in who["validation"] else "training"
                datalist[modality][part].append({"image": target.name, "patient": patient, "anatomy": anatomy})
    for modality, parts in datalist.items():
        weigh(parts["training"], {anatomy: group["share"] for anatomy, group in who[modality].items()})
    path = output / "datalist.json"
    write_json(path, datalist)
    return path


def weigh(items: list[dict[str, Any]], shares: dict[str, float]) -> None:
    """Give each scan a ``weight``: the share of its anatomy, divided among the patients, then among their scans."""
    for item in items:
        fellows = [other for other in items if other["anatomy"] == item["anatomy"]]
        patients = {other["patient"] for other in fellows}
        scans = sum(other["patient"] == item["patient"] for other in fellows)
        item["weight"] = shares[item["anatomy"]] / len(patients) / scans


def place(source: Path, folder: Path, is_hr_mr: bool) -> list[Path]:
    """Copy a training volume, or make its three thick stacks."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_hr_mr:
        target = folder / source.name
        if not target.exists():
            shutil.copyfile(source, target)
        return [target]
    targets = [folder / source.name.replace(".nii.gz", f"_thick{axis}.nii.gz") for axis in range(3)]
    if not all(target.exists() for target in targets):
        image = nib.load(source)
        volume = np.asarray(image.dataobj, dtype=np.float32)
        for axis, target in enumerate(targets):
            thick, affine = thicken(volume, image.affine, scale_factor=THICK, thick_axis=axis)
            with whole(target) as part:
                nib.save(nib.Nifti1Image(thick, affine), part)
    return targets


def train_stage(
    stage: int, iterations: int, data: Path, datalist: Path, output: Path, recipe: Path, seed: int, **ids: Any
) -> None:
    """Train one stage on prepared data, or resume it; writes ``stage<N>.pt`` to ``output``.

    Args:
        stage: 1 or 2.
        iterations: length of the stage.
        data: folder with ``ct/`` and ``mr/`` (:func:`prepare`).
        datalist: file that says which scans train and which validate.
        output: checkpoints, logs and weights go here.
        recipe: override file.
        seed: seed of everything random.
        ids: further overrides, which win over the recipe.
    """
    settings = {
        "ct_dir": data / "ct", "mr_dir": data / "mr", "datalist_file": datalist, "output_dir": output,
        "stage_iterations": iterations, "seed": seed, **ids,
    }  # fmt: skip
    run_bundle(["common.json", f"train_stage{stage}.json", str(recipe)], "training", **settings)


def main() -> None:
    """Prepare, train every stage that has iterations, copy the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with MANIFEST.csv")
    parser.add_argument("--output", type=Path, required=True, help="checkpoints, logs and weights go here")
    parser.add_argument(
        "--iterations", type=int, nargs=2, default=(600, 11500), help="of stage 1 and 2; 0 leaves one out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="override file for the configs")
    accept_overrides(parser)
    parser.add_argument("--install", action="store_true", help="copy the result to bundle/models/model.pt")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    datalist = prepare(arguments.data, output)
    ids = dict(arguments.set)
    for stage, iterations in enumerate(arguments.iterations, start=1):
        if iterations:
            train_stage(stage, iterations, output, datalist, output, arguments.recipe, arguments.seed, **ids)
    if arguments.install:
        shutil.copyfile(output / f"stage{len(arguments.iterations)}.pt", BUNDLE / "models" / "model.pt")


if __name__ == "__main__":
    main()
