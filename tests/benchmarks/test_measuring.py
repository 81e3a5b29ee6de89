# SPDX-License-Identifier: Apache-2.0
"""The machinery of the benchmarks on made-up costs and tiny volumes; no figure is judged here."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks import memory, modes, processes, scaling, startup, training, training_processes
from benchmarks.machine import TINY_NETWORK, fit_line, fit_power, in_turns, run_process, save_report, table

TINY = {**TINY_NETWORK, "network_def::features": 2}


def test_fits_find_the_law_that_made_the_figures():
    x = [1.0, 2, 5, 9]
    assert fit_line(x, [3 * v + 7 for v in x]) == pytest.approx((3, 7))
    assert fit_power(x, [0.2 * v**1.3 for v in x]) == pytest.approx(1.3)


def test_turns_go_round():
    order = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == list("ababab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_process_memory_is_that_of_the_command():
    small = run_process([sys.executable, "-c", "pass"])
    large = run_process([sys.executable, "-c", "x = bytearray(200 * 10**6)"])
    assert large.peak_bytes - small.peak_bytes == pytest.approx(200e6, rel=0.05)
    with pytest.raises(RuntimeError, match="got 3: told"):
        run_process([sys.executable, "-c", "print('told'); raise SystemExit(3)"])


def test_json_names_versions_and_no_machine(tmp_path):
    save_report({"ratio": 2.5}, tmp_path / "a" / "b.json")
    report = json.loads((tmp_path / "a" / "b.json").read_text())
    assert report["ratio"] == 2.5
    assert report["machine"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "node" not in report["machine"]
    save_report({}, None)


def test_table_is_markdown():
    assert table(["a", "b"], [[1, "x"]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 | x |"]


@pytest.mark.slow
def test_memory_goes_through_the_real_command_and_cleans_up(tmp_path):
    row = memory.peak((32, 24, 6), tmp_path)
    assert row["voxels_out"] == 4 * 32 * 24 * 6
    assert row["peak_bytes"] > 100e6
    assert not list((tmp_path / "32x24x6").iterdir())


def test_scan_is_thick_and_all_tissue(tmp_path):
    image = nib.load(memory.thick_scan(tmp_path / "x" / "a.nii.gz", (16, 12, 6)))
    assert image.shape == (16, 12, 6)
    assert image.header.get_zooms() == (1, 1, 4)
    assert image.get_data_dtype() == np.int16
    assert image.get_fdata().min() > 0


def test_laws_have_one_point_per_case_and_finite_exponents():
    report = scaling.measure(1, sizes=((10, 4), (16, 5)), factors=(2, 3), blocks=(1, 2), **TINY)
    assert [row["voxels"] for row in report["voxels"]] == [400, 1280]
    assert [row["scale_factor"] for row in report["scale_factor"]] == [2, 3]
    assert report["network"][1]["flops_per_pixel"] > report["network"][0]["flops_per_pixel"]
    assert all(np.isfinite(report[name]) for name in report if name.endswith("exponent"))


def test_cost_laws_skip_no_air():
    seen = []
    run, network = scaling.inference_of(12, 5, **TINY)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    assert run().shape == (1, 1, 12, 12, 20)
    assert sum(seen) == 2 * 12 * 12 * 5


@pytest.mark.slow
def test_start_up_runs_both_commands_and_compares_neighbours_in_time(monkeypatch):
    """Real commands with made-up seconds: the median of the ratios (3, 5, 1), not the ratio of the medians (4 / 1)."""
    ran = []

    def seconds(candidates, repeats):
        if not ran:
            ran.extend(run().seconds for run in candidates.values())
        return dict(zip(candidates, ([1.0, 1.0, 4.0], [3.0, 5.0, 4.0]), strict=True)) if repeats == 3 else {}

    monkeypatch.setattr(startup, "in_turns", lambda *a: {k: np.asarray(v) for k, v in seconds(*a).items()})
    assert startup.measure(3) == {"import_seconds": 1.0, "command_seconds": 4.0, "ratio": 3.0}
    assert len(ran) == 2
    assert min(ran) > 0.2  # none that imports PyTorch is done sooner


def test_series_are_shared_out_evenly_and_every_call_has_its_own_output(tmp_path, monkeypatch):
    processes.make_series(tmp_path / "in", 4, 16, 5)
    assert sorted(str(p.relative_to(tmp_path / "in")) for p in (tmp_path / "in").glob("*/*")) == [
        "a/0",
        "a/2",
        "b/1",
        "b/3",
    ]
    started = []
    monkeypatch.setattr(processes, "side_by_side", lambda commands, threads: started.append((commands, threads)))
    for run in processes.arrangements(tmp_path / "in", tmp_path, "tcp://127.0.0.1:1").values():
        run()
    outputs = [c[c.index("--output_dir") + 1] for commands, _ in started for c in commands]
    assert len(set(outputs)) == len(outputs) == 5
    used = [len(c) * t * (2 if "--workers" in c[0] or "--scheduler" in c[0] else 1) for c, t in started]
    assert used == [2, 2, 2, 2]  # threads in total


def test_the_slowest_batch_counts(tmp_path):
    for name, seconds in (("a", 3.5), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"summary": {"seconds": seconds}}))
    assert processes.batch_seconds([tmp_path / "a", tmp_path / "b"]) == 3.5


def test_a_failed_process_ends_the_measurement():
    with pytest.raises(RuntimeError, match="got 5: no"):
        processes.side_by_side([["sh", "-c", "true"], ["sh", "-c", "echo no; exit 5"]], 1)


def test_kept_bytes_by_hand():
    weight = torch.ones(1000, requires_grad=True)
    assert training.kept_bytes(lambda: (weight * weight).sum()) == 4000  # once, though it is saved twice
    image = torch.rand(500)
    assert training.kept_bytes(lambda: (weight[:500] * image).sum()) == 500 * 4


def test_shares_add_up_and_find_what_is_there():
    a, image = torch.nn.Conv2d(8, 8, 3), torch.rand(2, 8, 32, 32)
    found = training.shares(lambda: a(image).sum().backward(), repeats=1)
    assert sum(found.values()) == pytest.approx(1)
    assert found["convolution, forward"] > 0 < found["convolution, backward"]
    assert found["concatenation"] == 0


@pytest.mark.parametrize("stage", [1, 2])
def test_stage_is_timed_as_its_config_runs_it(tmp_path, stage):
    settings = {"batch_size": 2, "patch_rows": 16, "patch_columns": 24, "patch_margin": 8, "num_workers": 0, **TINY}
    found = training.waiting(stage, 5, tmp_path, **settings)
    assert 0 < found["waiting_share"] < 1
    assert found["seconds_per_iteration"] > 0


def test_training_is_timed_without_its_start(monkeypatch):
    """A start-up of 100 s and 2 s per iteration (3 s under torchrun), on a clock made up for it."""
    clock = [0.0]

    def pretend(commands, threads):
        words = [str(word) for word in commands[0]]
        iterations = int(words[words.index("--stage_iterations") + 1])
        clock[0] += 100 + (3 if "torch.distributed.run" in words else 2) * iterations
        patches = sum(int(c[list(map(str, c)).index("--batch_size") + 1]) for c in commands)
        assert patches * (2 if "torch.distributed.run" in words else 1) == 8
        assert threads * len(commands) * (2 if "torch.distributed.run" in words else 1) == 2

    monkeypatch.setattr(training_processes, "side_by_side", pretend)
    monkeypatch.setattr(training_processes.time, "perf_counter", lambda: clock[0])
    found = training_processes.measure((3, 10), batch_size=8, repeats=2)["arrangements"]
    assert found["one process, two threads"] == {"seconds_per_iteration": 2, "throughput": 1}
    assert found["two under torchrun"]["seconds_per_iteration"] == 3
    assert found["two under torchrun"]["throughput"] == pytest.approx(2 / 3)


def test_modes_are_measured_on_the_cpu_too():
    names = ["contiguous", "channels_last, bfloat16"]
    found = modes.measure("cpu", names, repeats=1, batch_size=1, patch_rows=16, patch_columns=24, **TINY)
    assert list(found) == names
    for result in found.values():
        assert result["training_ms"] > 0 < result["inference_ms"]
        assert result["training_peak_megabytes"] is None
