# SPDX-License-Identifier: Apache-2.0
"""Choose the quickest engine and precision that is as good as float32 on this machine, measured once and remembered.

Each combination (a *way*) in ``quick.json`` super-resolves a made-up patient through the bundle's :class:`Predictor`. A
way is good if its PSNR against the truth differs from that of float32 by at most ``tolerance_db``. Of the good ways,
the one that would first finish a scan of ``typical_voxels``, including its conversion at the start, is chosen.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .location import BUNDLE, config_file, version
from .screen import Screen

__all__ = ["best_device", "choose", "measure", "measurement"]

SETTINGS = Path(__file__).with_name("quick.json")
FORCED = ("engine", "autocast", "inferer")  # a user who sets one of these has already chosen
TOO_LATE = "not measured in time"
MODEL = ("network_def", "network", "ckpt_path")  # ids that change the network
PACKAGES = ("torch", "monai", "numpy", "onnxruntime", "onnx", "openvino")


def choose(ids: Mapping[str, Any], screen: Screen) -> dict[str, Any]:
    """Ids of ``inference.json`` that make it quick: ``engine``, ``autocast``, and ``device`` if it must be set.

    Args:
        ids: the ids that the user has set.
        screen: gets a line if the measurement takes place, which happens once.

    Returns:
        The ids; none if the user has chosen an engine or a precision.
    """
    if any(name.split("::")[0] in FORCED for name in ids):
        return {}
    found = measurement(ids, screen)
    # the config does not choose an Apple GPU by itself
    device = {"device": "mps"} if found["device"] == "mps" else {}
    return {**device, **found["best"]}


def measurement(ids: Mapping[str, Any], screen: Screen) -> dict[str, Any]:
    """Result of :func:`measure`, remembered between runs for each machine, set of versions and set of weights.

    Args:
        ids: the ids that the user has set; another device, network or weights are measured separately.
        screen: gets a line if the measurement takes place.
    """
    device = str(ids.get("device") or best_device())
    own = {name: value for name, value in ids.items() if name.split("::")[0] in MODEL}
    file = _cache_file(device, own)
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    screen.say("measuring once which engine is quickest on this machine ...")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the made-up patient does not belong into the log
    try:
        found = measure(device, own)
    finally:
        logging.disable(level)
    if all(way.get("error") != TOO_LATE for way in found["ways"]):
        _remember(file, found)
    return found


def _cache_file(device: str, ids: Mapping[str, Any]) -> Path:
    """File for the measurement of this machine, these versions and these weights."""
    from platformdirs import user_cache_path

    facts = json.dumps([_machine(device), _versions(), _model(ids), SETTINGS.read_text(encoding="utf-8")])
    return user_cache_path("thinslice", False) / f"quick-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"


def measure(device: str, ids: Mapping[str, Any]) -> dict[str, Any]:
    """Try every way; returns ``best`` (ids) and ``ways`` with the measurements of each.

    Args:
        device: torch device.
        ids: network and weights, if they are not the shipped ones.
    """
    import torch
    from scripts.transforms.degrade import thicken

    from .phantom.patient import make_patient

    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    factor = settings["thick_factor"]
    patient = make_patient(**{name: _tuple(value) for name, value in settings["patient"].items()})
    scan = thick, _ = thicken(patient.mr, patient.affine_ras, scale_factor=factor, thick_axis=2)
    ends = time.perf_counter() + settings["seconds_at_most"]  # for a busy machine
    ways: list[dict[str, Any]] = []
    for way in settings["ways"][torch.device(device).type]:
        late = bool(ways) and time.perf_counter() > ends
        ways.append({**way, "error": TOO_LATE} if late else _try(way, device, ids, scan, patient.mr))
    for _ in range(settings["rounds"]):
        for way in ways:  # in turns, so that other work on the machine slows all of them
            if "error" not in way and time.perf_counter() < ends:
                clock = time.perf_counter()
                way["predict"](*scan)
                way["seconds"] = min(way["seconds"], time.perf_counter() - clock)
    reference = next((way["psnr_db"] for way in ways if "error" not in way), None)
    if reference is None:
        raise RuntimeError(f"the network must run on {device}, got {ways[0]['error']}; choose another --device")
    for way in ways:
        way.pop("predict", None)
        if "error" not in way:
            way["typical_seconds"] = way["start_seconds"] + way["seconds"] * settings["typical_voxels"] / thick.size
    good = [w for w in ways if "error" not in w and w["psnr_db"] >= reference - settings["tolerance_db"]]
    best = min(good, key=lambda way: way["typical_seconds"])
    return {"best": {name: best[name] for name in ("engine", "autocast")}, "device": device, "ways": ways}


def _remember(file: Path, measurement: Mapping[str, Any]) -> None:
    """Write the measurement completely or not at all. If that fails, the next run measures again."""
    from scripts.files import write_json

    try:
        write_json(file, measurement)
    except OSError as error:
        logging.getLogger(__name__).warning("the measurement cannot be remembered: %s", error.strerror)


def _try(
    way: Mapping[str, Any], device: str, ids: Mapping[str, Any], scan: tuple[np.ndarray, np.ndarray], truth: np.ndarray
) -> dict[str, Any]:
    """Load and convert the network and compute once; returns the seconds of each and the PSNR against the truth."""
    from scripts.inference.predictor import Predictor

    try:
        clock = time.perf_counter()
        predict = Predictor(BUNDLE, **{"device": device, "progress": False, **ids, **way})
        small = scan[0][:24, :24, :6]
        predict(small, scan[1])  # converts the network and fills the libraries' caches
        start = time.perf_counter() - clock
        clock = time.perf_counter()
        result = predict(*scan).numpy().astype(np.float64)
        seconds = time.perf_counter() - clock
    except ModuleNotFoundError as error:
        return {**way, "error": f"{error.name} is not installed"}
    except Exception as error:  # a way that does not run on this machine is not a fault
        return {**way, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    mse = float(np.mean((result - truth) ** 2))
    psnr = 10 * np.log10(float(np.ptp(truth)) ** 2 / mse)
    return {**way, "predict": predict, "start_seconds": start, "seconds": seconds, "psnr_db": psnr}


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def best_device() -> str:
    """A GPU if PyTorch can use one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _machine(device: str) -> list[object]:
    """Facts of the machine that decide how fast the network is computed."""
    import torch

    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else _processor()
    return [kind, name, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), platform.platform()]


def _processor() -> str:
    """Name of the processor, which Python itself knows on some systems only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith(("model name", "CPU part")))
    except (OSError, StopIteration):
        return platform.processor()


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"thinslice": version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _model(ids: Mapping[str, Any]) -> list[str]:
    """Digests of the weights and the config, and the ids of the user that change them."""
    weights = Path(str(ids.get("ckpt_path") or BUNDLE / "models" / "model.pt"))
    files = [file for file in (weights, Path(config_file("inference.json"))) if file.is_file()]
    return [*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), json.dumps(dict(ids), default=str)]
