# SPDX-License-Identifier: Apache-2.0
"""Stages 1 and 2 with their configs: waiting for data, memory of a batch, and time by kind of operator.

Waiting is the time between the request for a batch and its arrival (ignite's ``BasicTimeProfiler``), relative to the
time of the iteration. The first iterations, in which the loader's worker starts, are left out.

    python -m benchmarks.training
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.handlers import BasicTimeProfiler
from monai.bundle import ConfigParser
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import parser_of, save_report, save_weights, table
from benchmarks.memory import thick_scan
from tools.run_bundle import BUNDLE, accept_overrides

SKIPPED = 3
KINDS = {  # kinds of PyTorch's operators, by name
    "convolution, forward": ("aten::mkldnn_convolution", "aten::cudnn_convolution"),
    "convolution, backward": ("aten::mkldnn_convolution_backward", "aten::convolution_backward"),
    "concatenation": ("aten::cat",),
    "copies": ("aten::copy_",),
    "activation": ("aten::clamp_min", "aten::relu", "aten::clamp_min_", "aten::threshold_backward"),
    "optimiser": ("Optimizer.step", "aten::_foreach", "aten::_fused_adam"),
}


def training_parser(stage: int, folder: Path, iterations: int, **ids: Any) -> ConfigParser:
    """``train_stage<stage>.json`` on two made-up scans, without validation."""
    for modality in ("ct", "mr"):
        for seed in range(2):
            thick_scan(folder / modality / f"{modality}{seed}.nii.gz", (128, 128, 96 if modality == "ct" else 32))
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in ("common.json", f"train_stage{stage}.json")])
    network = {key: value for key, value in ids.items() if key.startswith("network_def")}
    parser.update(
        {
            "bundle_root": str(BUNDLE), "ct_dir": str(folder / "ct"), "mr_dir": str(folder / "mr"), "device": "cpu",
            "output_dir": str(folder / f"out{stage}"), "stage_iterations": iterations, "validation_fraction": 0.0,
            "resume": False, **ids,
        }
    )  # fmt: skip
    if stage == 2:
        parser.update({"stage1_weights": str(save_weights(folder / "stage1.pt", **network))})
    return parser


def waiting(stage: int, iterations: int, folder: Path, **ids: Any) -> dict[str, float]:
    """Seconds per iteration, and the share of waiting for the batch."""
    parser = training_parser(stage, folder, iterations, **ids)
    parser.get_parsed_content("initialize")
    trainer = parser.get_parsed_content("train::trainer")
    profiler = BasicTimeProfiler()
    profiler.attach(trainer)
    trainer.run()
    waited = profiler.dataflow_times[SKIPPED:].sum().item()
    computed = profiler.processing_times[SKIPPED:].sum().item()
    return {
        "seconds_per_iteration": (waited + computed) / (iterations - SKIPPED),
        "waiting_share": waited / (waited + computed),
    }


def kept_bytes(step: Callable[[], torch.Tensor]) -> int:
    """Memory that autograd keeps from a forward pass for the backward pass; each storage counts once."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step().backward()
    return sum(kept.values())


def shares(run: Callable[[], object], repeats: int = 3, device: str = "cpu") -> dict[str, float]:
    """Share of the device's time by kind of operator; operators outside :data:`KINDS` count as ``other``."""
    on_gpu = torch.device(device).type == "cuda"
    run()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        for _ in range(repeats):
            run()
    # on a GPU, the events of kernels and annotations repeat the time of the operators that launched them
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in recorded.key_averages()
        if not on_gpu or event.key.startswith("aten::")
    }
    total = sum(times.values())
    result = {
        kind: sum(t for key, t in times.items() if (key.startswith(names) if kind == "optimiser" else key in names))
        / total
        for kind, names in KINDS.items()
    }
    return {**result, "other": 1 - sum(result.values())}


SCALE_FACTOR = 4  # K of the batch of noise


def network_step(parser: ConfigParser) -> tuple[torch.nn.Module, torch.Tensor, Callable[[], torch.Tensor]]:
    """The network, one batch of noise of the configured size, and a function that computes the loss on it."""
    device = parser.get_parsed_content("device")
    network = parser.get_parsed_content("network_def").to(device).to(memory_format=torch.channels_last)
    size = [parser.get_parsed_content(key) for key in ("batch_size", "patch_rows", "patch_columns")]
    operator = SliceProfileOperator(SliceGrid.covering(size[2], SCALE_FACTOR))
    told = operator.told(1 / SCALE_FACTOR, device)
    inferer = parser.get_parsed_content("train::inferer")
    image = torch.rand(size[0], 1, size[1], operator.grid.n_slices, device=device) * 2 - 1
    return network, image, lambda: inferer(image, network, *told).abs().mean()


def where_time_goes(folder: Path, **ids: Any) -> dict[str, dict[str, float]]:
    """Shares of time for one iteration of stage 1 and for inference on the same batch."""
    parser = training_parser(1, folder, 1, **ids)
    device = str(parser.get_parsed_content("device"))
    network, _, loss = network_step(parser)
    optimizer = torch.optim.Adam(network.parameters())

    def iteration() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    training = shares(iteration, device=device)
    with torch.no_grad():
        network.eval()
        return {"stage 1": training, "inference": shares(loss, device=device)}


def measure(iterations: int, **ids: Any) -> dict[str, Any]:
    """Everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stages = {f"stage {stage}": waiting(stage, iterations, folder, **ids) for stage in (1, 2)}
        parser = training_parser(1, folder, 1, **ids)
        _, image, loss = network_step(parser)
        return {
            "waiting": stages,
            "batch": list(image.shape),
            "kept_bytes_per_batch": kept_bytes(loss),
            "where_time_goes": where_time_goes(folder, **ids),
        }


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--iterations", type=int, default=15)
    accept_overrides(parser)
    a = parser.parse_args()
    report = measure(a.iterations, **dict(a.set))
    rows = [
        [stage, f"{r['seconds_per_iteration']:.2f}", f"{100 * r['waiting_share']:.2f} %"]
        for stage, r in report["waiting"].items()
    ]
    print(table(["", "seconds per iteration", "waiting for data"], rows), end="\n\n")
    print(f"batch {report['batch']}: {report['kept_bytes_per_batch'] / 2**20:.0f} MiB kept for the backward pass\n")
    kinds = list(report["where_time_goes"]["inference"])
    rows = [
        [name, *(f"{100 * share[kind]:.1f} %" for kind in kinds)] for name, share in report["where_time_goes"].items()
    ]
    print(table(["", *kinds], rows))
    save_report(report, a.output)


if __name__ == "__main__":
    main()
