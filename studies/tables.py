# SPDX-License-Identifier: Apache-2.0
"""Common parts of both tables: the command line, the check of settings when a table is resumed, and the output."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from scripts.evaluation.lpips import SliceLPIPS, find_alexnet
from scripts.evaluation.metrics import DEFINITIONS
from scripts.evaluation.pictures import draw_case
from scripts.evaluation.resolution import THROUGH_PLANE_DEFINITIONS, score_through_plane
from scripts.evaluation.scores import save_volume
from scripts.files import write_json
from scripts.geometry import voxel_spacing_mm
from scripts.losses.features import FEATURE_CONVENTIONS

from studies.cases import CaseSet
from studies.perceptual import SQUEEZE_DEFINITION, SliceSqueeze
from studies.rows import Inputs, Rows
from studies.statistics import compare_paired
from tools.run_bundle import BUNDLE, accept_overrides

matplotlib.use("agg")
from matplotlib import pyplot as plt

__all__ = ["command_line", "draw_summary", "prepare", "write_table"]

SHOWN = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓"}
SQUEEZE = {"squeeze_distance": "squeeze-distance (uncalibrated) ↓"}


def command_line(description: str | None) -> argparse.ArgumentParser:
    """The arguments of both tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", type=Path, nargs="+", required=True, help="folders of thin-slice MR to test on")
    parser.add_argument("--protocol", nargs="+", default=["axial"], help="one for all, or one for each folder")
    parser.add_argument("--ct", type=Path, help="folder of CT to learn from")
    parser.add_argument("--mr", type=Path, help="folder of MR to learn from, thick, or to be made thick")
    parser.add_argument("--hr-train", type=Path, help="folder of thin-slice MR for the supervised and unpaired rows")
    parser.add_argument(
        "--reference", type=Path, nargs="+",
        help="one for each folder: another, thin contrast of each patient, same names and grids; for minet and sanet",
    )  # fmt: skip
    parser.add_argument("--budget", type=float, default=600.0, help="processor seconds of training for each row")
    parser.add_argument("--rows", nargs="+", help="only these methods")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lpips-weights", help="torchvision's AlexNet state dict, else torch hub's cache")
    parser.add_argument("--squeeze-weights", help="SqueezeNet 1.1 state dict for a column of its own, never LPIPS")
    parser.add_argument("--squeeze-convention", choices=FEATURE_CONVENTIONS, default="torchvision", help="its input")
    accept_overrides(parser)
    return parser


def prepare(arguments: argparse.Namespace) -> tuple[Inputs, str]:
    """Check the arguments and make the case sets.

    Returns:
        The inputs of the rows, and the reason why LPIPS is missing (an empty string if it is not).

    Raises:
        ValueError: if folders and protocols do not match, the sets have different operators, or the output folder
            holds a table made with other settings.
    """
    protocols = arguments.protocol * len(arguments.hr) if len(arguments.protocol) == 1 else arguments.protocol
    if len(protocols) != len(arguments.hr):
        raise ValueError(f"PROTOCOL must be one, or one for each of {len(arguments.hr)} folders, got {len(protocols)}")
    for name in ("ct", "mr", "hr_train"):
        folder = getattr(arguments, name)
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name.upper()} must be a folder, got {folder}; correct it, or leave it out")
    if not arguments.budget > 0:
        raise ValueError(f"BUDGET must be > 0 processor seconds, got {arguments.budget:g}; raise it")
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    overrides = dict(arguments.set)
    ids: dict[str, Any] = {"device": str(device), "seed": arguments.seed, **overrides}
    references = arguments.reference or [None] * len(arguments.hr)
    if len(references) != len(arguments.hr):
        raise ValueError(f"REFERENCE must be one for each of {len(arguments.hr)} folders, got {len(references)}")
    sets = [
        CaseSet(folder, protocol, ids, reference)
        for folder, protocol, reference in zip(arguments.hr, protocols, references, strict=True)
    ]
    if len({s.operator() for s in sets}) > 1:
        raise ValueError(
            "all protocols must have one operator (evaluation_factor, slice_profile, thickness); run them apart"
        )
    settings = {
        "cases": {f"{s.label}, {protocol}": s.names for s, protocol in zip(sets, protocols, strict=True)},
        "ct": arguments.ct is not None,
        "mr": arguments.mr is not None,
        "hr_train": arguments.hr_train is not None,
        "reference": arguments.reference is not None,
        "squeeze_distance": arguments.squeeze_weights is not None,
        "budget_s": arguments.budget,
        "seed": arguments.seed,
        "set": overrides,
    }
    # data that were missing at first may be given later, because their rows have not been run
    path = arguments.output / "settings.json"
    if path.exists():
        before = json.loads(path.read_text())
        differing = [
            key
            for key, value in settings.items()
            if before.get(key) != value and not (key in ("ct", "mr", "hr_train", "reference") and not before.get(key))
        ]
        if differing:
            raise ValueError(
                f"OUT holds a table made with other settings ({', '.join(differing)}); give another folder"
            )
    write_json(path, settings)
    alexnet, reason = find_alexnet(arguments.lpips_weights)
    lpips = None if alexnet is None else SliceLPIPS(str(alexnet), device=str(device))
    squeeze = None
    if arguments.squeeze_weights:
        squeeze = SliceSqueeze(arguments.squeeze_weights, arguments.squeeze_convention, device=str(device))
    inputs = Inputs(
        sets, arguments.output.resolve(), arguments.budget, _absolute(arguments.ct), _absolute(arguments.mr),
        _absolute(arguments.hr_train), arguments.seed, device, lpips, squeeze,
        {key: value for key, value in overrides.items() if key.split("::")[0] in _common_ids()},
    )  # fmt: skip
    return inputs, reason


def _common_ids() -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / "common.json").read_text())


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def write_table(
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    reference: str,
    runner: Rows,
    lpips_reason: str,
    pictured: list[str],
) -> str:
    """Write ``NAME.json``, ``NAME.md``, the figures and the curves; return the Markdown text.

    Args:
        name: ``table1`` or ``table2``.
        title: first line of the table.
        rows: rows in the order of the table.
        reference: method against which the others are tested.
        runner: object that made the rows.
        lpips_reason: why LPIPS is missing, or an empty string.
        pictured: methods to show in the pictures.
    """
    inputs = runner.inputs
    truth = _figures(runner, rows, pictured)
    tests = _tests(rows, reference)
    content = {
        "title": title,
        "facts": _facts(inputs),
        "definitions": {
            **DEFINITIONS,
            **({} if inputs.squeeze is None else {"squeeze_distance": SQUEEZE_DEFINITION}),
            **THROUGH_PLANE_DEFINITIONS,
        },
        "lpips_reason": lpips_reason or None,
        "warnings": [text for s in inputs.sets for text in s.warnings],
        "rows": [_finite(row) for row in rows],
        "truth_through_plane": _finite(truth),
        "tests": {"reference": reference, "figure": "psnr", **tests},
    }
    write_json(inputs.output / f"{name}.json", content)
    text = _markdown(content, runner)
    (inputs.output / f"{name}.md").write_text(text)
    _draw_curves(rows, inputs.output / "figures" / "curves.png")
    draw_summary(rows, inputs.output / "figures" / "summary.png")
    return text


def _facts(inputs: Inputs) -> dict[str, Any]:
    operator = inputs.sets[0].operator()
    return {
        "scale_factor": operator.grid.scale_factor,
        "slice_profile": operator.profile,
        "fwhm_voxels": operator.fwhm,
        "budget_s": inputs.budget_s,
        "budget_unit": "GPU-seconds" if inputs.device.type == "cuda" else "CPU-seconds",
        "data_consistency": f"{inputs.sets[0].parser.get('data_consistency')}, for every learned row",
        "seed": inputs.seed,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("torch", "monai", "scikit-image", "lpips")},
    }


def _tests(rows: list[dict[str, Any]], reference: str) -> dict[str, Any]:
    found = {row["method"]: row["cases"] for row in rows if row["status"] == "done"}
    if reference not in found:
        return {"note": f"{reference} has not been run; there is nothing to test against"}
    keys = list(found[reference])
    return {
        method: compare_paired([cases[k]["psnr"] for k in keys], [found[reference][k]["psnr"] for k in keys])
        for method, cases in found.items()
        if method != reference and list(cases) == keys
    }


def _figures(runner: Rows, rows: list[dict[str, Any]], pictured: list[str]) -> dict[str, dict[str, float]]:
    """Draw one picture per case from the volumes on disk; return the figures of the truth along the thick axis."""
    output = runner.inputs.output
    truths: dict[str, dict[str, float]] = {}
    for key, case_set, index in runner.cases():
        case = case_set.case(index)
        affine = case.affine
        truths[key] = score_through_plane(
            case.truth, case.truth, voxel_spacing_mm(affine), case.thick_axis, case_set.scale_factor
        )
        save_volume(output / "volumes" / key / "truth.nii.gz", case.truth, affine)
        done = {row["method"]: row for row in rows if row["status"] == "done" and row["method"] in pictured}
        volumes = {
            method: np.asarray(nib.load(output / "volumes" / key / f"{method}.nii.gz").dataobj, np.float32)
            for method in done
        }
        if not volumes:
            continue
        picture = output / "figures" / f"{key.replace('/', '_').replace(' ', '')}.png"
        scores = {method: row["cases"][key]["psnr"] for method, row in done.items()}
        draw_case(picture, case.thick(), volumes, case.truth, case.thick_axis, affine, scores)
    return truths


def _draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    curves = {row["method"]: row["curve"] for row in rows if row.get("curve")}
    if not curves:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for method, points in curves.items():
        axis.plot([p["budget_s"] for p in points], [p["gain_over_bicubic_db"] for p in points], "o-", label=method)
    axis.axhline(0, color="grey", lw=0.8)
    axis.set(xlabel="budget, processor seconds", ylabel="PSNR over bicubic, dB (slab of one case)", xscale="log")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_summary(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw one point per row: the mean gain over cubic against the cost of the row, per scan and once."""
    done = {row["method"]: row for row in rows if row["status"] == "done" and row["cases"]}
    cubic = done.pop("bicubic", None)
    if cubic is None or not done:
        return
    gains = {
        method: float(np.mean([row["cases"][key]["psnr"] - case["psnr"] for key, case in cubic["cases"].items()]))
        for method, row in done.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(12, 6), sharey=True, layout="constrained")
    for axis, (when, label) in zip(
        axes, (("per_scan_seconds", "per scan"), ("once_seconds", "once, before the first scan")), strict=True
    ):
        for method, row in done.items():
            seconds = max(0.1, row[when])  # a cost of 0 is drawn at the left edge
            axis.plot(seconds, gains[method], "o", color="C3" if method.startswith("ours") else "C0")
            axis.annotate(method, (seconds, gains[method]), (4, 3), textcoords="offset points", fontsize=7)
        axis.set(xlabel=f"processor seconds {label}", xscale="log")
        axis.margins(x=0.15)  # room for the names
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR over cubic interpolation, dB (mean of the cases)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mean(row: dict[str, Any], keys: Sequence[str], figure: str) -> str:
    values = [row["cases"][key].get(figure) for key in keys if key in row["cases"]]
    known = [v for v in values if v is not None]
    if not known:
        return ""
    digits = {"psnr": 2, "squeeze_distance": 4}.get(figure, 3)
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def _markdown(content: dict[str, Any], runner: Rows) -> str:
    inputs, facts, unit = runner.inputs, content["facts"], content["facts"]["budget_unit"]
    keys = {s.label: [key for key, owner, _ in runner.cases() if owner is s] for s in inputs.sets}
    shown = SHOWN if inputs.squeeze is None else {**SHOWN, **SQUEEZE}
    lines = [f"# {content['title']}", ""]
    head = [f"{label}: {name}" for label in keys for name in shown.values()]
    if len(keys) == 1:
        head = list(shown.values())
        lines += [
            f"{len(next(iter(keys.values())))} cases of {next(iter(keys))}; mean ± sample standard deviation.",
            "",
        ]
    lines += [
        "| method | " + " | ".join(head) + f" | {unit} once | per scan | parameters |",
        "|---" * (len(head) + 4) + "|",
    ]
    for row in content["rows"]:
        if row["status"] != "done":
            lines.append(f"| {row['method']} | {row['status']} |" + " |" * (len(head) + 2))
            continue
        cells = [_mean(row, k, figure) for k in keys.values() for figure in shown]
        cells += [f"{row[when]:.0f}" for when in ("once_seconds", "per_scan_seconds")]
        parameters = "" if row["parameters"] is None else f"{row['parameters']:,}"
        lines.append(f"| {row['method']} | " + " | ".join(cells) + f" | {parameters} |")
    lines += [
        "",
        f"Every learned row was trained for {facts['budget_s']:g} {unit}, once or on each scan, as the columns {unit} "
        f"say; application to a scan is counted per scan. Data consistency: {facts['data_consistency']}. "
        f"All rows know the operator: {facts['slice_profile']}, K = "
        f"{facts['scale_factor']:g}, FWHM {facts['fwhm_voxels']:g} thin slices. All peers are re-implementations from "
        "their papers, except sinc (SimpleITK) and eclare.",
        "",
        *[f"* {name}: {text}" for name, text in content["definitions"].items() if name in shown],
    ]
    if content["lpips_reason"]:
        lines += ["", content["lpips_reason"]]
    lines += _through_plane_lines(content) + _test_lines(content)
    if content["warnings"]:
        lines += ["", "## Warnings", "", *[f"* {text}" for text in content["warnings"]]]
    versions = ", ".join(f"{k} {facts[k]}" for k in ("python", "torch", "monai", "scikit-image", "lpips"))
    lines += ["", f"Seed {facts['seed']}, {facts['threads']} threads, {versions}.", ""]
    return "\n".join(lines)


def _through_plane_lines(content: dict[str, Any]) -> list[str]:
    """Second table: figures along the thick axis as means over all cases."""
    lines = ["", "## Along the thick axis", "", "| method | " + " | ".join(THROUGH_PLANE_DEFINITIONS) + " |"]
    lines.append("|---" * (len(THROUGH_PLANE_DEFINITIONS) + 1) + "|")
    rows = {row["method"]: [c["through_plane"] for c in row["cases"].values()] for row in content["rows"]}
    rows["truth"] = list(content["truth_through_plane"].values())
    for method, cases in rows.items():
        if cases:
            cells = [[c[f] for c in cases if c[f] is not None] for f in THROUGH_PLANE_DEFINITIONS]
            lines.append(f"| {method} | " + " | ".join(f"{np.mean(c):.2f}" if c else "" for c in cells) + " |")
    return lines + ["", *[f"* {name}: {text}" for name, text in THROUGH_PLANE_DEFINITIONS.items()]]


def _test_lines(content: dict[str, Any]) -> list[str]:
    tests = dict(content["tests"])
    reference, _ = tests.pop("reference"), tests.pop("figure")
    lines = ["", f"## PSNR of {reference} over the others, paired over the cases", ""]
    if "note" in tests:
        return [*lines, tests["note"]]
    lines += ["| against | n | mean difference, dB | 95 % interval (bootstrap) | p (paired t-test) |", "|---" * 5 + "|"]
    for method, test in tests.items():
        interval = "" if test["interval_95"] is None else "{:+.2f} to {:+.2f}".format(*test["interval_95"])
        p_value = "" if test["p_value"] is None else f"{test['p_value']:.3g}"
        lines.append(f"| {method} | {test['n']} | {test['mean_difference']:+.2f} | {interval} | {p_value} |")
    warning = next((test["warning"] for test in tests.values() if test["warning"]), None)
    return [*lines, "", f"**{warning}.**"] if warning else lines


def _finite(value: Any) -> Any:
    """Replace infinity and NaN, which JSON does not have, by ``null``."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
