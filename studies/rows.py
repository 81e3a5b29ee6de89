# SPDX-License-Identifier: Apache-2.0
"""Rows of a table: train a method, apply it to every case and score it. Finished parts are not repeated."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scripts.evaluation.scores import save_volume
from scripts.files import sha256, write_json
from scripts.geometry import find_thick_axis
from scripts.training.budget import processor_seconds
from scripts.training.weights import load_weights
from scripts.transforms.degrade import thicken
from torch import nn
from tqdm import tqdm

from studies.cases import Case, CaseSet, training_cases, training_scans, training_volumes
from studies.grid import LARGEST_SHIFT
from studies.ours import train_ours
from studies.peers.eclare import find_eclare, run_eclare
from studies.peers.interpolation import bicubic, bicubic_dc, sinc
from studies.peers.scan import both_orientations

__all__ = ["KINDS", "Inputs", "Rows", "thick_training_scans"]

# how a method in table1.json is used
KINDS = {
    "per_scan": "a network of its own for every scan",
    "with_reference": "the same, guided by a second contrast of the patient",
    "iterative": "an equation solved for every scan, no network",
    "from_thick_mr": "a network trained once, on thick MR",
    "unpaired": "a network trained once, on thick MR and thin MR of other patients",
    "supervised": "a network trained once, on thin MR",
    "shipped": "the weights in the bundle; their training is not counted",
}

Apply = Callable[[nn.Module, Any], torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a table.

    Attributes:
        sets: test volumes with their protocols, which have one operator in common.
        output: folder of the table.
        budget_s: processor seconds that every learned row may spend on training.
        ct: folder of CT, for our own rows.
        mr: folder of training MR, thick or to be made thick.
        hr_train: folder of thin training MR, for the supervised and unpaired rows only.
        seed: seed of everything that is random.
        device: device of the networks.
        lpips: scorer, or ``None``.
        squeeze: :class:`studies.perceptual.SliceSqueeze`, or ``None``.
        overrides: ids of ``common.json`` for our own training commands.
    """

    sets: list[CaseSet]
    output: Path
    budget_s: float
    ct: Path | None = None
    mr: Path | None = None
    hr_train: Path | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    lpips: Any = None
    squeeze: Any = None
    overrides: dict[str, Any] = field(default_factory=dict)


def thick_training_scans(mr: Path, output: Path, **degrade: Any) -> Path:
    """Make a folder of thick scans: the thick scans of ``mr``, and the others made thick along their third axis.

    Args:
        mr: folder of NIfTI volumes.
        output: folder for the thick scans.
        degrade: ``scale_factor`` and the other arguments of ``DegradeVolume``.

    Raises:
        ValueError: if ``mr`` holds no NIfTI volume.
    """
    done = output.with_name(output.name + ".done")  # beside the folder, whose files are all data
    if not done.exists():
        output.mkdir(parents=True, exist_ok=True)
        for item in training_cases(mr, "MR"):
            if not isinstance(item["image"], str):
                raise ValueError(f"MR must hold NIfTI files for this table, got a DICOM series in {mr}; convert it")
            image = nib.load(item["image"])
            try:
                find_thick_axis(image.affine)
            except ValueError:
                image = nib.Nifti1Image(*thicken(np.asarray(image.dataobj), image.affine, thick_axis=2, **degrade))
            nib.save(image, output / f"{item['case']}.nii.gz")
        done.touch()
    return output


class Rows:
    """Every row of a table, by the name of its method.

    Args:
        inputs: inputs of the table.
        ours: names of our own rows to their ``shares`` and variants (``ours`` or ``ablation`` of ``table1.json``).
    """

    def __init__(self, inputs: Inputs, ours: dict[str, dict[str, Any]]) -> None:
        self.inputs = inputs
        self.first = inputs.sets[0]
        self.parser = self.first.parser
        self.kinds = {method: kind for kind in KINDS for method in self.parser.get(kind)}
        self._peers: dict[str, Any] = {}
        self.autocast = self.parser.get_parsed_content("autocast")
        self.ours = ours
        weights = Path(self.parser.get_parsed_content("ckpt_path"))
        self.shipped_digest = sha256(weights) if weights.is_file() else ""
        self._kept: dict[tuple[str, str, float], nn.Module] = {}
        self.plain = {"bicubic": bicubic, "bicubic_dc": bicubic_dc, "sinc": sinc}

    def peer(self, method: str) -> Any:
        """The untrained peer with this name. Its weights depend only on the seed, not on the rows before it."""
        if method not in self._peers:
            torch.manual_seed(self.inputs.seed)
            self.parser.parse(reset=True)  # makes new objects instead of those that another row has trained
            self._peers[method] = self.parser.get_parsed_content(f"{self.kinds[method]}::{method}")
        return self._peers[method]

    def is_per_scan(self, method: str) -> bool:
        """Whether a network is trained for every scan."""
        return self.kinds.get(method) in ("per_scan", "with_reference")

    def trains(self, method: str) -> bool:
        """Whether the method spends the budget on training."""
        return method in self.ours or self.kinds.get(method, "shipped") != "shipped"

    def cases(self) -> list[tuple[str, CaseSet, int]]:
        """``(key, set, index)`` of all cases; the key contains the label of the set if there are several sets."""
        several = len(self.inputs.sets) > 1
        return [
            (f"{s.label}/{name}" if several else name, s, index)
            for s in self.inputs.sets
            for index, name in enumerate(s.names)
        ]

    def run(self, method: str) -> dict[str, Any]:
        """Make one row in the form of ``table1.json``. A row that fails states the reason, and the others continue."""
        try:
            return self._run(method)
        except (Exception, SystemExit) as error:  # rows are isolated, and a training command ends with SystemExit
            traceback.print_exc()
            cause: BaseException = error
            while cause.__cause__ is not None:  # MONAI wraps the error of a constructor
                cause = cause.__cause__
            return self._row(method, f"failed: {type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}")

    def _row(self, method: str, reason: str | None) -> dict[str, Any]:
        return {
            "method": method,
            "status": reason or "done",
            "budget_s": None if method == "eclare" else self.inputs.budget_s if self.trains(method) else 0.0,
            "cpu_seconds": None,
            "once_seconds": None,
            "per_scan_seconds": None,
            "parameters": 0 if method in self.plain else None,
            "cases": {},
        }

    def _run(self, method: str) -> dict[str, Any]:
        reason = self._missing(method)
        row = self._row(method, reason)
        if reason:
            return row
        once = method in self.ours or self.kinds.get(method) in ("from_thick_mr", "unpaired", "supervised", "shipped")
        trained = self._train_once(method, self.inputs.budget_s) if once else None
        network = trained[0] if trained else None
        for key, case_set, index in tqdm(self.cases(), desc=method, unit="case"):
            scores = self._case(method, key, case_set, index, trained)
            if abs(scores["shift_voxels"]) > LARGEST_SHIFT:
                shift = scores["shift_voxels"]
                row["status"] = f"refused: the result for {key} is {shift:+.2f} voxels off the grid of the truth"
            row["cases"][key] = scores
        if self.is_per_scan(method):
            network = self.peer(method).network
        if network is not None:
            row["parameters"] = sum(p.numel() for p in network.parameters())
        row["once_seconds"] = trained[2] if trained else 0.0
        spent = [scores["cpu_seconds"] for scores in row["cases"].values()]
        row["per_scan_seconds"] = float(np.mean(spent))
        row["cpu_seconds"] = row["once_seconds"] + sum(spent)
        if row["budget_s"]:
            row["curve"] = self._curve(method)
        return row

    def _missing(self, method: str) -> str | None:
        if method in self.ours and not (self.inputs.ct and self.inputs.mr):
            return "not run: our rows learn from CT=... and MR=..."
        kind = self.kinds.get(method)
        if kind == "from_thick_mr" and not self.inputs.mr:
            return "not run: it learns from MR=..."
        if kind == "unpaired" and not (self.inputs.mr and self.inputs.hr_train):
            return "not run: it learns from thick MR=... and from high-resolution MR of other patients, HR_TRAIN=..."
        if kind == "supervised" and not self.inputs.hr_train:
            return "not run: a supervised row learns from high-resolution MR, HR_TRAIN=..."
        if kind == "with_reference" and not all(s.reference for s in self.inputs.sets):
            return "not run: it is guided by a second contrast of the same patients, REFERENCE=..."
        if method == "eclare" and find_eclare() is None:
            return "not run: the program run-eclare is not installed (pip install eclare; GPL-3)"
        return None

    def _case(self, method: str, key: str, case_set: CaseSet, index: int, trained: Any) -> dict[str, Any]:
        """Scores of one case, read from the file if the case is finished."""
        output = self.inputs.output
        path = output / "scores" / method / f"{key}.json"
        weights = self.shipped_digest if method in ("ours_shipped", "ours_adapted") else None
        if path.exists() and (scores := json.loads(path.read_text())).get("weights") == weights:
            return scores
        case = case_set.case(index)
        if method == "eclare":
            volume, spent = self._eclare(case_set, case, output / "eclare" / key)
            plain = None
        else:
            thin, spent = self._result(method, case, self.inputs.budget_s, trained)
            consistent = method not in self.plain
            plain = case_set.place(case, thin, consistent=False)
            volume = case_set.place(case, thin, consistent=True) if consistent else plain
        scores = case_set.score(case, volume, self.inputs.lpips, self.inputs.squeeze)
        if plain is not None and plain is not volume:
            without = case_set.score_psnr(case, plain)
            scores["psnr_without_data_consistency"] = without
        scores["cpu_seconds"], scores["weights"] = spent, weights
        save_volume(output / "volumes" / key / f"{method}.nii.gz", volume, case.affine)
        write_json(path, scores)
        return scores

    def _result(self, method: str, case: Case, budget_s: float, trained: Any) -> tuple[torch.Tensor, float]:
        """Result ``(H1, H2, K * n_slices)`` in unit range, and processor seconds."""
        device = self.inputs.device
        started = processor_seconds(device)
        if method in self.plain:
            thin = self.plain[method](case.scan)
        elif self.kinds.get(method) == "iterative":
            thin = self.peer(method).solve(case.scan, budget_s)
        elif self.is_per_scan(method):
            thin = self.peer(method).apply(self._train_on(method, case, budget_s), case.scan)
        else:
            network, apply, _ = trained
            thin = apply(network, case.scan)
        return thin, processor_seconds(device) - started

    def _train_on(self, method: str, case: Case, budget_s: float) -> nn.Module:
        """Network of a per-scan method for a case. That of the last case of the first set is kept for the curve."""
        key = (method, str(case.image.meta["filename_or_obj"]), budget_s)
        if key in self._kept:
            return self._kept[key]
        peer = self.peer(method)
        network = peer.train(case.scan, budget_s, self.inputs.seed, self.inputs.device, self.autocast)
        if case.name == self.first.names[-1]:
            self._kept[key] = network
        return network

    def _eclare(self, case_set: CaseSet, case: Case, folder: Path) -> tuple[np.ndarray, float]:
        folder.mkdir(parents=True, exist_ok=True)
        thick_affine = case.scan.operator.grid.thick_affine(case.affine, case.thick_axis)
        nib.save(nib.Nifti1Image(case.thick(), thick_affine), folder / "thick.nii.gz")
        length = self.parser.get_parsed_content("eclare")
        return run_eclare(
            folder / "thick.nii.gz", folder / "result", case_set.thickness_to_spacing, **length,
            shape=case.truth.shape, affine=case.affine,
        )  # fmt: skip

    def _train_once(self, method: str, budget_s: float) -> tuple[nn.Module, Apply, float]:
        """Network, function that applies it, and processor seconds of its training."""
        inputs = self.inputs
        folder = inputs.output / "weights" / f"{method}_{budget_s:g}s"
        weights, facts = folder / "network.pt", folder / "facts.json"
        if method in self.ours:
            return self._train_ours(method, folder, facts, budget_s)
        peer = self.peer(method)
        if self.kinds[method] == "shipped":
            network = peer.to(inputs.device, memory_format=torch.channels_last).eval()
            return network, both_orientations, 0.0
        if facts.exists():
            network = copy.deepcopy(peer.network)  # the network of the peer itself stays untrained
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            return network.to(inputs.device).eval(), peer.apply, json.loads(facts.read_text())["cpu_seconds"]
        how = (budget_s, inputs.seed, inputs.device, self.autocast)
        data: list[Any] = []
        if self.kinds[method] in ("from_thick_mr", "unpaired"):
            data.append(training_scans(self._thick_mr(), self.first))
        if inputs.hr_train is not None and self.kinds[method] in ("unpaired", "supervised"):
            data.append(training_volumes(inputs.hr_train, self.first))
        if self.kinds[method] == "supervised":
            data.append(self.first.operator())
        started = processor_seconds(inputs.device)  # the reading of volumes does not count
        network = peer.train(*data, *how)
        seconds = processor_seconds(inputs.device) - started
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), weights)
        write_json(facts, {"cpu_seconds": seconds})
        return network, peer.apply, seconds

    def _thick_mr(self) -> Path:
        assert self.inputs.mr is not None  # otherwise, the row is not started
        first = self.first
        return thick_training_scans(
            self.inputs.mr, self.inputs.output / "mr", scale_factor=first.scale_factor, profile=first.profile,
            thickness_to_spacing=first.thickness_to_spacing,
        )  # fmt: skip

    def _train_ours(self, method: str, folder: Path, facts: Path, budget_s: float) -> tuple[nn.Module, Apply, float]:
        inputs, row = self.inputs, dict(self.ours[method])
        ids: dict[str, Any] = {
            "ct_dir": inputs.ct,
            "mr_dir": self._thick_mr(),
            "seed": inputs.seed,
            # all rows are given the operator
            "scale_factors::lowest": self.first.scale_factor,
            "scale_factors::highest": self.first.scale_factor,
            "acquired_profile": self.first.profile,
            "slice_profiles": json.dumps({self.first.profile: 1.0}),
            "thickness_to_spacing": [self.first.thickness_to_spacing] * 2,
            **inputs.overrides,
            **{key: value for key, value in row.items() if key != "shares"},
        }
        path = train_ours(row["shares"], folder, budget_s, ids)
        if not facts.exists():
            write_json(facts, {"cpu_seconds": budget_s})  # of the iterations, without the start of the commands
        network = load_weights(copy.deepcopy(self.parser.get_parsed_content("network_def")), str(path))
        network = network.to(inputs.device).to(memory_format=torch.channels_last).eval()
        return network, both_orientations, json.loads(facts.read_text())["cpu_seconds"]

    def _curve(self, method: str) -> list[dict[str, float]]:
        """Gain over cubic by budget, before data consistency, on a slab of the last case of the first set."""
        path = self.inputs.output / "curves" / f"{method}.json"
        points: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
        done = {point["budget_s"] for point in points}
        fractions = [*self.parser.get_parsed_content("curve_fractions"), 1.0]
        for fraction in sorted(fractions, reverse=True):
            budget_s = self.inputs.budget_s * fraction
            if budget_s in done:
                continue
            case = self.first.case(len(self.first.names) - 1)
            scan, truth = case.slab(int(self.parser.get_parsed_content("curve_rows")))
            if self.kinds.get(method) == "iterative":
                thin = self.peer(method).solve(scan, budget_s)
            elif self.is_per_scan(method):
                thin = self.peer(method).apply(self._train_on(method, case, budget_s), scan)
            else:
                network, apply, _ = self._train_once(method, budget_s)
                thin = apply(network, scan)
            errors = [(v - truth).square().mean() for v in (bicubic(scan), thin)]
            gain = 10 * float(torch.log10(errors[0] / errors[1]))
            points.append({"budget_s": budget_s, "gain_over_bicubic_db": gain})
            write_json(path, points)
        return sorted(points, key=lambda point: point["budget_s"])
