# SPDX-License-Identifier: Apache-2.0
"""Peers: on the right grid, and able to learn what can be learned."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import shift
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.networks.srnet import SRNet
from scripts.training.budget import ProcessorBudget, processor_seconds, rate_factor
from scripts.transforms.patch import RandPlanePatch

from studies.grid import LARGEST_SHIFT, shift_voxels
from studies.peers.eclare import find_eclare, run_eclare
from studies.peers.in_plane import InPlaneLearner
from studies.peers.interpolation import bicubic, bicubic_dc, sinc
from studies.peers.reconresnet import ReconResNet
from studies.peers.scan import Scan
from studies.peers.smore import WideResidualNetwork
from studies.peers.supervised import Supervised
from studies.peers.training import random_pairs, train_within
from studies.peers.tscn import TSCN, SliceInterpolator
from studies.peers.zssr import ZSSRNetwork

K = 4
CPU = torch.device("cpu")


def spheres(shape, seed, count=40):
    """Solid balls of two grey values in unit range: every edge is sharp, so thick slices determine thin ones."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
    volume = np.full(shape, -0.8, np.float32)
    for _ in range(count):
        centre = rng.uniform(0, shape).reshape(3, 1, 1, 1)
        radius = rng.uniform(4, 11)
        distance = np.sqrt(((grid - centre) ** 2).sum(0))
        weight = np.clip(radius - distance + 0.5, 0, 1)
        volume = volume * (1 - weight) + rng.choice([0.8, -0.8]) * weight
    return torch.from_numpy(volume.astype(np.float32))


@pytest.fixture(scope="module")
def problem():
    truth = spheres((48, 44, 64), seed=0)
    operator = SliceProfileOperator(SliceGrid.under_slab(64, K))
    return Scan(operator.degrade(truth), (1.0, 1.0, 4.0), operator), truth


def gain_db(result, scan, truth):
    error = [float((v - truth).square().mean()) for v in (bicubic(scan), result)]
    return 10 * np.log10(error[0] / error[1])


LEARNER = {"size": (32, 12), "batch_size": 8, "margin_slices": 2, "learning_rate": 2e-3}


def peers():
    torch.manual_seed(0)
    supervised = {**LEARNER, "row_spacing_mm": (1.0, 1.0), "thin_spacing_mm": (1.0, 1.0)}
    return {
        "zssr": InPlaneLearner(ZSSRNetwork(layers=6, features=16), largest_scale=1.2, **LEARNER),
        "smore": InPlaneLearner(WideResidualNetwork(K, 3, 16, 2), largest_scale=1.0, **LEARNER),
        "tscn": TSCN(
            SliceInterpolator(K, 2, 3, 16, 16), size=24, batch_size=8, stage1_fraction=0.8, cycle_weight=0.5,
            margin_slices=1, learning_rate=2e-3,
        ),
        "rdn_supervised": Supervised(SRNet(2, 3, 16, 16, sets=4, thin_features=8, hidden=8), **supervised),
        "reconresnet": Supervised(ReconResNet(features=8, blocks=2, dropout=0.0), **supervised),
    }  # fmt: skip


def train(name, peer, scan, budget_s):
    if name in ("zssr", "smore"):
        return peer.train(scan, budget_s, 0, CPU, None)
    if name == "tscn":
        return peer.train([scan], budget_s, 0, CPU, None)
    volumes = [(spheres((48, 48, 48), seed)[None], (1.0, 1.0, 1.0)) for seed in (1, 2)]
    return peer.train(volumes, scan.operator, budget_s, 0, CPU, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zssr", "smore", "tscn", "rdn_supervised", "reconresnet"])
def test_every_learned_peer_finds_the_known_answer_and_more_budget_brings_it_closer(name, problem):
    scan, truth = problem
    peer = peers()[name]
    gains = []
    for budget_s in (1.0, 12.0):
        result = peer.apply(train(name, peer, scan, budget_s), scan)
        assert result.shape == truth.shape
        gains.append(gain_db(result, scan, truth))
    assert abs(shift_voxels(result.numpy(), truth.numpy(), 2)) < LARGEST_SHIFT / 2
    moved = shift(result.numpy(), (0, 0, 0.5), order=3, mode="nearest")
    assert shift_voxels(moved, truth.numpy(), 2) > LARGEST_SHIFT  # half a voxel would be seen in this row
    assert gains[1] > {"tscn": 0.5}.get(name, 1.5)
    assert gains[1] > gains[0] + 0.3


@pytest.mark.parametrize("method", [bicubic, bicubic_dc, sinc])
def test_interpolation_lies_on_the_grid_and_half_a_voxel_would_be_seen(method, problem):
    scan, truth = problem
    result = method(scan)
    assert result.shape == truth.shape
    assert abs(shift_voxels(result.numpy(), truth.numpy(), 2)) < 0.05
    for half in (0.5, -0.5):
        moved = shift(result.numpy(), (0, 0, half), order=3, mode="nearest")
        assert shift_voxels(moved, truth.numpy(), 2) * np.sign(half) > LARGEST_SHIFT


def test_interpolation_gives_back_a_ramp():
    ramp = torch.linspace(-1, 1, 64).expand(8, 8, 64)
    operator = SliceProfileOperator(SliceGrid.under_slab(64, K), "box")
    scan = Scan(operator.degrade(ramp), (1.0, 1.0, 4.0), operator)
    for method, tolerance in ((bicubic, 6e-3), (sinc, 2e-2)):  # neither reproduces a ramp quite
        np.testing.assert_allclose(method(scan)[..., 24:40], ramp[..., 24:40], atol=tolerance)


def test_sinc_against_the_sum_that_it_is():
    rng = np.random.default_rng(0)
    lr = rng.normal(size=16).astype(np.float32)
    operator = SliceProfileOperator(SliceGrid.over_slab(16, K))
    scan = Scan(torch.from_numpy(np.tile(lr, (8, 8, 1))), (1.0, 1.0, 4.0), operator)
    result = sinc(scan)[3, 3].numpy()
    for j in (26, 31, 36):  # thin slices whose ten neighbours all exist
        position = (j - (K - 1) / 2) / K
        k = np.arange(int(np.floor(position)) - 4, int(np.floor(position)) + 6)
        weights = np.sinc(position - k) * np.sinc((position - k) / 5)
        # the window's weights do not quite sum to 1; SimpleITK leaves them so
        assert result[j] == pytest.approx(float(weights @ lr[k]), abs=1e-4)


def test_data_consistency_is_exact(problem):
    scan, _ = problem
    np.testing.assert_allclose(scan.operator.degrade(bicubic_dc(scan)), scan.image, atol=1e-5)


def test_shift_of_a_known_curve_and_of_a_blurred_one():
    z = np.arange(64)
    truth = np.sin(2 * np.pi * z / 16)[None, None].repeat(3, 0)
    for s in (0.5, -0.25):
        assert shift_voxels(np.sin(2 * np.pi * (z - s) / 16)[None, None].repeat(3, 0), truth, 2) == pytest.approx(
            s, abs=0.02
        )
    assert shift_voxels(0.6 * truth, truth, 2) == pytest.approx(0, abs=0.01)
    assert shift_voxels(np.ones((3, 4, 5)), np.ones((3, 4, 5)), 1) == 0


@pytest.mark.parametrize("factor", [2, 4])
def test_slice_interpolator_starts_as_linear_interpolation_between_the_right_slices(factor):
    network = SliceInterpolator(factor, 1, 1, 2, 2)
    with torch.no_grad():
        network.tail.weight.zero_()
        network.tail.bias.zero_()
    ramp = torch.arange(factor * 6, dtype=torch.float32).expand(8, 8, -1)  # the value of a thin slice is its index
    operator = SliceProfileOperator(SliceGrid.under_slab(factor * 6, factor), "box")
    scan = Scan(operator.degrade(ramp), (1.0, 1.0, float(factor)), operator)
    peer = TSCN(network, 8, 1, 0.5, 0.5, 1, 1e-3)
    inner = slice(factor, -factor)
    np.testing.assert_allclose(peer.apply(network, scan)[..., inner], ramp[..., inner], atol=1e-5)
    # the cycle gives the middle slice back, since the half-way slices of a ramp lie on it
    triplet = scan.image[..., 2:5].movedim(-1, 0)[None]
    np.testing.assert_allclose(TSCN.cycle(network, triplet, operator).detach(), triplet[:, 1:2], atol=1e-5)


def test_synthetic_pair_of_tscn_is_what_the_operator_makes():
    volume = spheres((40, 36, 10), seed=5)
    operator = SliceProfileOperator(SliceGrid.over_slab(10, K))
    peer = TSCN(SliceInterpolator(K, 1, 1, 2, 2), 16, 1, 0.5, 0.5, 1, 1e-3)
    pair, between = peer.synthetic_pair(Scan(volume, (1.0, 1.0, 1.0 * K), operator), np.random.RandomState(0))
    assert pair.shape[0] == 2
    assert between.shape == (K, *pair.shape[1:])
    # what lies between two slices is, on average, what they are: the same place
    assert np.corrcoef(pair.mean(0).flatten(), between.mean(0).flatten())[0, 1] > 0.9


def test_odd_factors_are_refused_by_tscn():
    with pytest.raises(ValueError, match="scale_factor must be even for tscn, got 3"):
        TSCN(SliceInterpolator(3, 1, 1, 2, 2), 16, 1, 0.5, 0.5, 1, 1e-3)


WHOLE = [lambda k: WideResidualNetwork(k, 1, 4, 2), lambda k: SliceInterpolator(k, 1, 1, 2, 2)]


@pytest.mark.parametrize("make", WHOLE)
def test_methods_for_whole_factors_refuse_others(make):
    with pytest.raises(ValueError, match=r"scale_factor must be a whole number >= 2 for (smore|tscn), got 2\.5"):
        make(2.5)


def test_pairs_are_made_by_the_operator_and_repeat_with_the_seed():
    volume = spheres((40, 40, 40), seed=3)[None]
    operator = SliceProfileOperator(SliceGrid.over_slab(10, K), "box")

    def draw(seed):
        patch = RandPlanePatch("any", (16, K * 10))
        return random_pairs([(volume, (1.0, 1.0, 1.0))], operator, patch, 3, 8, seed, CPU)()

    thick, thin, positions, condition = draw(1)
    assert (len(positions), condition.shape) == (24, (3, 4))
    assert thick.shape == (3, 1, 16, 6)
    assert thin.shape == (3, 1, 16, 24)
    # a box as wide as the spacing is the mean of K thin slices
    np.testing.assert_allclose(thick, thin.unflatten(-1, (6, K)).mean(-1), atol=1e-5)
    assert torch.equal(thick, draw(1)[0])
    assert not torch.equal(thick, draw(2)[0])


def test_training_ends_with_its_budget():
    network = torch.nn.Conv2d(1, 1, 3)
    started = processor_seconds(CPU)
    steps = train_within(network, lambda: network(torch.randn(8, 1, 64, 64)).square().mean(), 1e-3, 0.5, "test")
    assert steps > 1
    assert 0.5 <= processor_seconds(CPU) - started < 2
    with pytest.raises(ValueError, match="budget must be > 0"):
        train_within(network, lambda: network(torch.zeros(1, 1, 9, 9)).mean(), 1e-3, 0.0, "test")


def test_rate_rises_then_falls_to_nothing():
    assert rate_factor(0) == pytest.approx(0.04)
    assert rate_factor(0.05) == pytest.approx(1)
    assert rate_factor(0.525) == pytest.approx(0.5)
    assert rate_factor(1.0) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="budget must be > 0"):
        ProcessorBudget(0, torch.optim.SGD([torch.zeros(1)], 0.1), None, "cpu")


@pytest.mark.parametrize("network", [ZSSRNetwork(3, 4), WideResidualNetwork(K, 1, 4, 2), ReconResNet(4, 1, 0.1)])
def test_networks_keep_the_grid_and_every_weight_learns(network):
    image = torch.randn(2, 1, 13, 7)
    operator = SliceProfileOperator(SliceGrid.over_slab(7, K))
    positions = torch.tensor(operator.grid.positions, dtype=torch.float32)
    output = network(image, positions, torch.tensor([operator.condition(1.0)] * 2))
    assert output.shape == (2, 1, 13, 7 * K)
    output.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_eclare_is_an_outside_program_whose_result_is_brought_to_the_grid(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_eclare() is None
    with pytest.raises(FileNotFoundError, match="pip install eclare"):
        run_eclare(tmp_path / "thick.nii.gz", tmp_path / "out", 1.0, (8, 8, 8), np.eye(4))
    # a stand-in with its command line: it answers on a grid of its own, a world ramp
    grid = np.diag([1.0, 1.0, 0.5, 1.0])
    grid[2, 3] = -3.0
    ramp = np.broadcast_to(np.arange(40) * 0.5 - 3.0, (8, 8, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(ramp, grid), tmp_path / "answer.nii.gz")
    program = tmp_path / "run-eclare"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --in-fpath ] && [ "$3" = --out-dir ] && [ "$5 $6" = "--relative-slice-thickness 0.8" ]'
        " || exit 2\n"
        f'/bin/cp {tmp_path}/answer.nii.gz "$4/thick_eclare.nii.gz"\n'
    )
    program.chmod(0o755)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    volume, seconds = run_eclare(tmp_path / "thick.nii.gz", tmp_path / "out", 0.8, (8, 8, 10), affine)
    np.testing.assert_allclose(volume, np.broadcast_to(np.arange(10.0), (8, 8, 10)), atol=1e-4)
    assert seconds >= 0
    with pytest.raises(RuntimeError, match="must leave one result, got exit code 2"):
        run_eclare(tmp_path / "thick.nii.gz", tmp_path / "out2", 0.7, (8, 8, 10), affine)
