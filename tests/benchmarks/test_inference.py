# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from monai.data import MetaTensor
from scripts.networks.srnet import SRNet

from benchmarks import gpu
from benchmarks.inference import (
    as_scan,
    computed_pixels,
    convolution_flops,
    half_air,
    measure,
    own_scan,
    peaks,
    plain_loop,
    stock_slices,
)
from benchmarks.machine import TINY_NETWORK, save_weights
from benchmarks.memory import thick_scan
from tests.conftest import BUNDLE

SETTINGS = {"profile": "box", "batch_pixels": 8192, "halo": 16, "background": -0.95, "air_margin": 8}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SRNet(1, 2, 4, 4, sets=2, thin_features=4, hidden=4).eval()


def test_half_of_the_head_is_air():
    volume = half_air(64, 16, seed=0)
    assert volume.shape == (1, 1, 64, 64, 16)
    assert 0.45 < float((volume > -0.95).float().mean()) < 0.55
    assert float(volume.min()) >= -1
    assert float(volume.max()) <= 1


def test_the_two_loops_we_are_compared_with_agree(network):
    volume = as_scan(torch.rand(1, 1, 20, 16, 5), 2.5)
    loop, stock = plain_loop(volume, network, "box"), stock_slices(volume, network, "box")
    assert loop.shape == (1, 1, 20, 16, 13)
    torch.testing.assert_close(loop, stock, atol=1e-6, rtol=0)


def test_computed_pixels_by_hand():
    volume = torch.full((1, 1, 60, 50, 4), -1.0)
    volume[:, :, 20:30, 10:40] = 0.5
    volume = as_scan(volume)
    along_columns = 10 * (30 + 2 * 8) * 4  # 10 images with tissue of 30 columns
    along_rows = 30 * (10 + 2 * 8) * 4
    assert computed_pixels(volume, SETTINGS) == along_columns + along_rows
    assert computed_pixels(volume, {**SETTINGS, "background": float("-inf")}) == 2 * volume.numel()


def test_flops_by_hand(network):
    body = 9 * (1 * 4 + 4 * 4) + 9 * (4 * 4 + 8 * 4) + 12 * 4 + 4 * 4 + 9 * 4 * 4  # per thick pixel
    last = 9 * 4 * 4 + 9 * 4 * 1 + 4 * 4 + 4 * 1  # per thin pixel
    assert convolution_flops(network, (2, 1, 8, 6)) == 2 * (body + 4 * last) * 2 * 8 * 6


def test_peaks_are_of_convolutions_and_of_a_matrix_product(network):
    found = peaks(network, pixels=256, repeats=1)
    assert found.keys() == {"convolution", "gemm"}
    assert all(value > 1e6 for value in found.values())


@pytest.mark.slow
def test_report_counts_the_same_pixels_for_all_of_ours_and_sees_the_differences():
    weights = BUNDLE / "models" / "model.pt"
    report = measure(half_air(32, 5, seed=0), repeats=1, ckpt_path=weights, engines=("torch", "torchscript"))
    results = report["results"]
    assert list(results) == ["plain loop", "SliceInferer", "ours, torch", "ours, torchscript", "ours, torch, bfloat16"]
    assert results["plain loop"]["max_difference_of_range"] == 0
    assert results["ours, torch"]["max_difference_of_range"] < 1e-3
    assert (
        results["ours, torch"]["max_difference_of_range"] < results["ours, torch, bfloat16"]["max_difference_of_range"]
    )
    assert report["tissue_fraction"] < report["computed_fraction"] <= 1
    work = {name: r["seconds"] * r["gflops"] for name, r in results.items()}
    assert work["ours, torch"] == pytest.approx(report["computed_fraction"] * work["plain loop"])


def test_candidates_on_a_gpu_are_compared_with_the_cpu():
    """Here the CPU stands in for the GPU, so that float32 must agree with itself."""
    weights = BUNDLE / "models" / "model.pt"
    results = gpu.measure(16, 4, repeats=1, seed=0, ckpt_path=weights, device="cpu")["results"]
    assert list(results) == ["plain loop, float32", *(f"ours, {name}" for name in gpu.PRECISIONS)]
    assert results["ours, float32"]["max_difference_of_range"] == 0
    assert 0 < results["plain loop, float32"]["max_difference_of_range"] < 1e-3
    assert results["ours, bfloat16"]["max_difference_of_range"] > 1e-4


def test_own_scan_is_what_inference_gives_the_network(tmp_path):
    thick_scan(tmp_path / "scan.nii.gz", (24, 20, 6))
    volume = own_scan(tmp_path / "scan.nii.gz")
    assert volume.shape == (1, 1, 24, 20, 6)
    assert type(volume) is MetaTensor
    assert -1.5 < float(volume.min()) < float(volume.max()) < 3


def test_weights_saved_fit_the_network_described(tmp_path):
    state = torch.load(save_weights(tmp_path / "a.pt", **TINY_NETWORK), weights_only=True)
    SRNet(1, 1, 1, 1, sets=1, thin_features=1, hidden=1).load_state_dict(state)
