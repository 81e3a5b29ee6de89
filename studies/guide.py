# SPDX-License-Identifier: Apache-2.0
"""The benefit of the patient's own CT as a guide, and the cost of a wrong CT.

Made-up people have a CT and an MR of one anatomy. SRNet (``small.json``) learns stages 1 and 2 on the CT and the thick
MR of some of them. For each seed, two trainings start from these weights and take the same processor seconds: stage 2
continues without a guide, and the guided part is trained on CT alone (``train_guided.json``). Then the thick MR of
other people is super-resolved in several ways: without a guide, with their own CT displaced by 0 to 3 mm, with the CT
of the next person, and with their own CT after a movement of 15 mm and 5 degrees that registration has to undo (first
seed). The middle coronal slices of the results are compared with the thin MR after data consistency, as in inference.
The row ``no CT`` is the guided network without a guide, which has the weights from which both trainings start.

Every training runs the bundle's own command, and a finished training is not repeated. Writes ``guide.md``,
``guide.json`` and ``guide.png``.

    python -m studies.guide --output OUT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np

from phantom import make_patient
from tools.run_bundle import BUNDLE, ROOT, accept_overrides, run_bundle

matplotlib.use("agg")
from matplotlib import pyplot as plt
from scipy.spatial.transform import Rotation
from scripts.evaluation.metrics import foreground, psnr
from scripts.files import write_json
from scripts.inference.predictor import Predictor
from scripts.reasons import CaseError
from scripts.transforms.degrade import thicken
from tqdm import tqdm

SIZES, SMALL_GUIDE, RECIPE = (str(ROOT / "studies" / f) for f in ("small.json", "small_guided.json", "guide.json"))
SHAPE, SPACING_MM, SCALE_FACTOR = (96, 112, 96), (1.0, 1.0, 1.0), 4
SHIFTS_MM = (0, 1, 2, 3)
WRONG, REGISTERED = "wrong person", "own, registered"


def make_people(output: Path, seeds: range) -> None:
    """Write ``ct/``, ``mr_hr/`` and ``mr/`` (thick) of made-up people from ``phantom``."""
    for seed in tqdm(seeds, desc=output.name, unit="person", disable=None):
        if (output / "mr" / f"phantom{seed:03d}.nii.gz").exists():
            continue
        person = make_patient(seed, SHAPE, SPACING_MM, ("t1", "t2")[seed % 2], (6.0, -4.0, 3.0))
        thick, thick_affine = thicken(person.mr, person.affine_ras, scale_factor=SCALE_FACTOR, thick_axis=2)
        for name, array, affine in (
            ("ct", person.ct, person.affine_ras), ("mr_hr", person.mr, person.affine_ras), ("mr", thick, thick_affine),
        ):  # fmt: skip
            (output / name).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(np.rint(array).astype(np.int16), affine)
            nib.save(image, output / name / f"phantom{seed:03d}.nii.gz")


def train(data: Path, weights: Path, *configs: str, **ids: Any) -> Path:
    """Run one training by the bundle's own command, unless its weights, named after the stage, already exist."""
    if not weights.exists():
        people = {"ct_dir": data / "ct", "mr_dir": data / "mr"}
        run_bundle(["common.json", *configs], "training", output_dir=weights.parent, **people, **ids)
    return weights


def moved(ct: Path, target: Path, movement: np.ndarray) -> Path:
    """Write the CT with a displaced affine."""
    image = nib.load(ct)
    target.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), movement @ image.affine), target)
    return target


def shift(mm: float, seed: int) -> np.ndarray:
    """``(4, 4)`` shift by ``mm`` in a direction that depends on the seed."""
    direction = np.random.default_rng([seed, 7]).standard_normal(3)
    matrix = np.eye(4)
    matrix[:3, 3] = mm * direction / np.linalg.norm(direction)
    return matrix


def away(seed: int) -> np.ndarray:
    """``(4, 4)`` movement that the registration has to undo."""
    matrix = shift(15, seed)
    matrix[:3, :3] = Rotation.from_rotvec([3, -4, 0], degrees=True).as_matrix()
    return matrix


def guides(data: Path, seed: int, seeds: range, folder: Path) -> dict[str, tuple[Path, bool]]:
    """For each row of the table, the CT that guides it, and whether the CT is registered."""
    own, other = (data / "ct" / f"phantom{s:03d}.nii.gz" for s in (seed, seeds[(seed - seeds[0] + 1) % len(seeds)]))
    found = {f"own, {mm} mm": (moved(own, folder / f"{seed}_{mm}.nii.gz", shift(mm, seed)), False) for mm in SHIFTS_MM}
    found[WRONG] = (other, False)
    found[REGISTERED] = (moved(own, folder / f"{seed}_away.nii.gz", away(seed)), True)
    return found


def slab(path: Path, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle coronal slices of a volume and their affine, so that scoring does not cost more than training."""
    image = nib.load(path)
    start = (image.shape[1] - slices) // 2
    part = image.slicer[:, start : start + slices]
    return part.get_fdata(dtype=np.float32), part.affine


def super_resolve(
    weights: Path, scan: tuple[np.ndarray, np.ndarray], ct: Path | None, register: bool = False
) -> np.ndarray:
    """Super-resolve by the bundle's own inference; the result is in scanner units."""
    settings: dict[str, Any] = {"slice_profile": "gaussian", "device": "cpu", "progress": False}
    settings |= {"output_dtype": "float32", "ckpt_path": str(weights)}
    if ct is None:
        return Predictor(BUNDLE, [SIZES], **settings)(*scan).numpy()
    configs = [SIZES, "network_guided.json", SMALL_GUIDE]
    return Predictor(BUNDLE, configs, guide_ct=str(ct), guide_register=register, **settings)(*scan).numpy()


def score(
    data: Path, people: range, slices: int, start: Path, unguided: Path, guided: Path, register: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """``psnr`` and ``psnr_foreground`` by row and person. If the inference refuses a CT, the entry is missing."""
    rows: dict[str, dict[str, dict[str, float]]] = {"unguided": {}, "no CT": {}}
    for person in tqdm(people, desc=f"scoring {guided.parent.parent.name}", unit="person", disable=None):
        name = f"phantom{person:03d}.nii.gz"
        scan, (truth, _) = slab(data / "mr" / name, slices), slab(data / "mr_hr" / name, slices)
        tissue, data_range = foreground(truth), float(np.ptp(truth))
        wanted: list[tuple[str, Path, Path | None, bool]] = [
            ("unguided", unguided, None, False), ("no CT", start, None, False),
        ]  # fmt: skip
        for row, (ct, registered) in guides(data, person, people, guided.parents[2] / "guides").items():
            if register or not registered:
                wanted.append((row, guided, ct, registered))
        for row, weights, guide, registered in wanted:
            rows.setdefault(row, {})
            try:
                result = super_resolve(weights, scan, guide, registered)
            except CaseError as error:
                tqdm.write(f"{row}, person {person}: {error}")
                continue
            rows[row][str(person)] = {
                "psnr": psnr(result, truth, data_range),
                "psnr_foreground": psnr(result[tissue], truth[tissue], data_range),
            }
    return rows


def gains(rows: dict[str, dict[str, dict[str, float]]], row: str, base: str) -> list[float]:
    """Difference of PSNR to another row in dB, for each person."""
    return [found["psnr"] - rows[base][person]["psnr"] for person, found in sorted(rows.get(row, {}).items())]


def table(results: dict[int, dict[str, dict[str, dict[str, float]]]]) -> list[str]:
    """Markdown table of the gain of every row over the unguided training and over the guided network without a CT."""
    lines = [
        "| guide | over the unguided training, dB | worst person | over no CT, dB | worst person | used |",
        "|---|---|---|---|---|---|",
    ]
    rows = list(dict.fromkeys(row for found in results.values() for row in found))
    for row in rows[1:]:
        cells = []
        for base in ("unguided", "no CT"):
            every = [gain for found in results.values() for gain in gains(found, row, base)]
            cells += [f"{np.mean(every):+.2f}", f"{min(every):+.2f}"] if every and row != base else ["", ""]
        people = sum(len(found["unguided"]) for found in results.values() if row in found)
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {len(every)} of {people} |")
    return lines


def draw(data: Path, people: range, slices: int, unguided: Path, guided: Path, path: Path) -> None:
    """Draw a coronal slice of the first person: scan, guide, results with different guides, and truth; errors below."""
    name = f"phantom{people[0]:03d}.nii.gz"
    scan, (truth, _) = slab(data / "mr" / name, slices), slab(data / "mr_hr" / name, slices)
    found = guides(data, people[0], people, guided.parents[2] / "guides")
    rows = (("guided", "own, 0 mm"), ("guided, 2 mm off", "own, 2 mm"), ("wrong person's CT", WRONG))
    images = {
        "thick": np.repeat(scan[0], SCALE_FACTOR, axis=2),
        "own CT": slab(found["own, 0 mm"][0], slices)[0],
        "unguided": super_resolve(unguided, scan, None),
        **{name: super_resolve(guided, scan, found[row][0]) for name, row in rows},
        "truth": truth,
    }
    high = np.percentile(truth, 99.8)
    figure, axes = plt.subplots(2, len(images), figsize=(2.4 * len(images), 4.6), layout="constrained")
    for (name, volume), (above, below) in zip(images.items(), axes.T, strict=True):
        image = volume[:, slices // 2].T
        low, top = (-150, 400) if name == "own CT" else (0, high)
        above.imshow(image, cmap="gray", vmin=low, vmax=top, origin="lower")
        above.set_title(name, fontsize=9)
        if name not in ("own CT", "truth"):
            error = np.abs(image - truth[:, slices // 2].T)
            below.imshow(error, cmap="magma", vmin=0, vmax=0.3 * high, origin="lower")
        for axis in (above, below):
            axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1), help="of the trainings")
    parser.add_argument("--train", type=int, default=8, help="made-up people to train on")
    parser.add_argument("--test", type=int, default=6, help="made-up people to score on")
    parser.add_argument("--slices", type=int, default=40, help="middle coronal slices that are scored")
    parser.add_argument("--start", type=float, default=100, help="processor seconds of stages 1 and 2 each")
    parser.add_argument("--budget", type=float, default=100, help="processor seconds after that, for either")
    accept_overrides(parser)
    arguments = parser.parse_args()
    output, people = arguments.output.resolve(), range(arguments.test)
    data = output / "train"
    make_people(data, range(100, 100 + arguments.train))
    make_people(output / "test", people)
    train(data, output / "start" / "stage1.pt", "train_stage1.json", SIZES, RECIPE, budget_s=arguments.start)
    start = train(data, output / "start" / "stage2.pt", "train_stage2.json", SIZES, RECIPE, budget_s=arguments.start)
    results = {}
    for seed in arguments.seeds:
        folder, ids = output / f"seed{seed}", {"seed": seed, "start_weights": start, "budget_s": arguments.budget}
        unguided = train(data, folder / "unguided" / "stage2.pt", "train_stage2.json", SIZES, RECIPE, **ids)
        configs = ("train_stage1.json", SIZES, RECIPE, "network_guided.json", "train_guided.json", SMALL_GUIDE)
        guided = train(data, folder / "guided" / "guided.pt", *configs, **ids, **dict(arguments.set))
        if not (folder / "scores.json").exists():
            register = seed == arguments.seeds[0]
            write_json(
                folder / "scores.json",
                score(output / "test", people, arguments.slices, start, unguided, guided, register),
            )
        results[seed] = json.loads((folder / "scores.json").read_text())
        lines = table(results)
        (output / "guide.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))
    write_json(output / "guide.json", results)
    first = output / f"seed{arguments.seeds[0]}"
    weights = (first / "unguided" / "stage2.pt", first / "guided" / "guided.pt")
    draw(output / "test", people, arguments.slices, *weights, output / "guide.png")


if __name__ == "__main__":
    main()
