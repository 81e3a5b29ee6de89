# SPDX-License-Identifier: Apache-2.0
"""Run the inference of the bundle on scans, one after the other, with one line on the screen for each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from .location import BUNDLE, config_file
from .quick import choose
from .screen import LOG, Screen, fail
from .settings import require_device, require_ids

__all__ = ["run_scans"]

CONFIGS = ("inference.json",)
GUIDED = "network_guided.json"


def run_scans(source: Path, output: Path, ids: Mapping[str, Any], exact: bool, screen: Screen) -> int:
    """Super-resolve every scan that a path holds.

    Args:
        source: NIfTI file, DICOM series, or a folder of any of these.
        output: folder, which exists.
        ids: overrides of ids of ``inference.json``; with ``guide_ct``, ``network_guided.json`` goes after it.
        exact: use the engine and the precision of the config, which are PyTorch and float32.
        screen: gets one line per scan.

    Returns:
        Exit code: 0 all done, 3 some scan has no result, 4 nothing to process.
    """
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow
    from scripts.inference.evaluator import case_error

    guided = ids.get("guide_ct") is not None
    if guided:
        ids = {**ids, "guide_ct": require_guide(ids)}
        exact = True  # the guided network is computed by PyTorch alone
    files = [config_file(name) for name in (*CONFIGS, *((GUIDED,) if guided else ()))]
    require_ids(ids, files)
    require_device(ids.get("device"), exact)
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="infer",
        logging_file=False,
        # absolute, so that no path begins with a character that starts an expression in a config
        **{
            **ids, "bundle_root": str(BUNDLE), "dataset_dir": str(source.resolve()),
            "output_dir": str(output.resolve()),
        },
    )  # fmt: skip
    cases = workflow.parser.get_parsed_content("cases")
    way = {} if exact or not cases.items else choose(ids, screen)
    workflow.parser.update({"cases": cases, **way})  # so that the scans are searched for once
    workflow.initialize()
    evaluator = workflow.parser.get_parsed_content("evaluator")
    before: dict[str, Any] = {}
    evaluator.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: before.update(_grid(engine.state.batch["image"]))
    )
    failures = list(cases.refused)
    for index, item in enumerate(cases.items):
        name = str(item["case"])
        clock = time.perf_counter()
        try:
            with screen.bars():
                evaluator.run_one(index)
            after = _grid(evaluator.state.output[0]["pred"])
        except Exception as error:  # as in the bundle: whatever it is, the next scan must run
            failures.append((name, case_error(error)))
        else:
            screen.say(_line(name, before, after, time.perf_counter() - clock, output))
            if guide := evaluator.state.output[0]["pred"].meta.get("guide"):
                (screen.say if str(guide).startswith("used") else screen.warn)(f"{name}: guide {guide}")
            if outside := evaluator.state.output[0]["pred"].meta.get("outside_envelope"):
                screen.warn(f"{name}: unlike the scans that the weights are good for: {'; '.join(map(str, outside))}")
        finally:
            evaluator.state.output = evaluator.state.batch = None
    for name, reason in failures:
        screen.warn(f"{name}: {reason}")
    if not cases.items and not failures:
        screen.warn(f"thinslice: {source}: nothing to process; {cases.hint}")
        return 4
    done = len(cases.items) + len(cases.refused) - len(failures)
    how = " ".join(str(way[key]) for key in ("engine", "autocast") if way.get(key)) or "exact"
    count = f"{done} scan{'s' if done != 1 else ''} done"
    refused = f", {len(failures)} not" if failures else ""
    screen.say(f"{count}{refused} in {_process_seconds():.0f} s ({how}); log: {output / LOG}")
    return 3 if failures else 0


def require_guide(ids: Mapping[str, Any]) -> str:
    """Absolute path of ``guide_ct``; end the command with one line if it or the weights for it are missing."""
    ct = Path(str(ids["guide_ct"]))
    if not ct.exists():
        fail(f"--guide-ct must be a CT, got {ct}, which does not exist; correct the path")
    weights = Path(str(ids.get("ckpt_path") or BUNDLE / "models" / "model_guided.pt"))
    if not weights.is_file():
        fail(
            f"--guide-ct must have weights of the guided network, got none at {weights}; train them "
            "(docs/guide.md), and give --set ckpt_path=FILE"
        )
    return str(ct.resolve())


def _process_seconds() -> float:
    """Seconds since this command was started, including the loading of its libraries."""
    return time.time() - psutil.Process().create_time()


def _grid(image: Any) -> dict[str, Any]:
    """Number and spacing in mm of the slices, from the meta data of an image or of a batch of one."""
    affine = np.asarray(image.meta["original_affine"], dtype=np.float64).reshape(-1, 4, 4)[0]
    axis = int(np.asarray(image.meta["thick_axis"]).reshape(-1)[0])
    shape = np.asarray(image.meta["spatial_shape"]).reshape(-1, 3)[0]
    return {"slices": int(shape[axis]), "spacing_mm": float(np.linalg.norm(affine[:3, axis]))}


def _line(name: str, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float, output: Path) -> str:
    """The line of a scan: name, slices before and after, time, gain if the self-check is on, and path of the result."""
    parts = [
        f"{name}: {before['slices']} slices every {before['spacing_mm']:.3g} mm"
        f" -> {after['slices']} every {after['spacing_mm']:.3g} mm",
        f"{seconds:.1f} s",
    ]
    quality = output / f"{name}_quality.json"
    if quality.is_file():
        gain = json.loads(quality.read_text(encoding="utf-8")).get("predicted_gain_db")
        if gain is not None:
            parts.append(f"{gain:+.1f} dB over cubic by self-check")
    return ", ".join([*parts, str(output / f"{name}_sr.nii.gz")])
