# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from scripts.networks.rdn import RDN

from benchmarks.inference import (
    computed_pixels,
    convolution_flops,
    gpu_milliseconds,
    half_air,
    measure,
    peaks,
    plain_loop,
    stock_slices,
)
from benchmarks.machine import TINY_NETWORK, save_weights
from tests.conftest import BUNDLE

SETTINGS = {"scale_factor": 4, "batch_pixels": 8192, "halo": 16, "background": -0.95, "margin": 8}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RDN(4, blocks=1, layers=2, growth=4, features=4).eval()


def test_half_of_the_head_is_air():
    volume = half_air(64, 16, seed=0)
    assert volume.shape == (1, 1, 64, 64, 16)
    assert 0.45 < float((volume > -0.95).float().mean()) < 0.55
    assert float(volume.min()) >= -1
    assert float(volume.max()) <= 1


def test_the_two_loops_we_are_compared_with_agree(network):
    volume = torch.rand(1, 1, 20, 16, 5)
    torch.testing.assert_close(plain_loop(volume, network), stock_slices(volume, network), atol=1e-6, rtol=0)


def test_computed_pixels_by_hand():
    volume = torch.full((1, 1, 60, 50, 4), -1.0)
    volume[:, :, 20:30, 10:40] = 0.5
    along_columns = 10 * (30 + 2 * 8) * 4  # 10 images with tissue of 30 columns
    along_rows = 30 * (10 + 2 * 8) * 4
    assert computed_pixels(volume, SETTINGS) == along_columns + along_rows
    assert computed_pixels(volume, {**SETTINGS, "background": float("-inf")}) == 2 * volume.numel()


def test_flops_by_hand(network):
    body = 9 * (1 * 4 + 4 * 4) + 9 * (4 * 4 + 8 * 4) + 12 * 4 + 4 * 4 + 9 * 4 * 4 + 9 * 4 * 16  # per thick pixel
    last = 9 * 4 * 1  # per thin pixel
    assert convolution_flops(network, (2, 1, 8, 6)) == 2 * (body + 4 * last) * 2 * 8 * 6


def test_peaks_are_of_convolutions_and_of_a_matrix_product(network):
    found = peaks(network, pixels=256, repeats=1)
    assert found.keys() == {"convolution", "gemm"}
    assert all(value > 1e6 for value in found.values())


def test_report_counts_the_same_pixels_for_all_of_ours_and_sees_the_differences():
    weights = BUNDLE / "models" / "model.pt"
    report = measure(rows=32, slices=5, repeats=1, seed=0, ckpt_path=weights, engines=("torch", "torchscript"))
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


def test_gpu_figures_have_both_precisions_and_none_without_a_gpu(tmp_path):
    volume = torch.rand(1, 1, 16, 16, 4)
    weights = BUNDLE / "models" / "model.pt"
    assert gpu_milliseconds(volume, weights, device="cpu")["gpu_milliseconds"].keys() == {"float32", "bfloat16"}
    if not torch.cuda.is_available():
        assert gpu_milliseconds(volume, weights) == {}


def test_weights_saved_fit_the_network_described(tmp_path):
    state = torch.load(save_weights(tmp_path / "a.pt", **TINY_NETWORK), weights_only=True)
    RDN(4, blocks=1, layers=1, growth=1, features=1).load_state_dict(state)
