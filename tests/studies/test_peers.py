# SPDX-License-Identifier: Apache-2.0
"""Peers: on the right grid, and able to learn what can be learned."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import shift
from scipy.optimize import minimize
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from scripts.networks.srnet import SRNet
from scripts.training.budget import ProcessorBudget, processor_seconds, rate_factor
from scripts.transforms.patch import RandPlanePatch

from studies.grid import LARGEST_SHIFT, shift_voxels
from studies.peers.adversarial import Critic, patch_critic
from studies.peers.arssr import ArSSR
from studies.peers.dcsrn import DCSRN
from studies.peers.deepresolve import DeepResolve
from studies.peers.eclare import find_eclare, run_eclare
from studies.peers.gan_circle import CircleGenerator, GANCircle
from studies.peers.in_plane import InPlaneLearner
from studies.peers.interpolation import bicubic, bicubic_dc, sinc
from studies.peers.lrtv import LRTV, gradient, gradient_adjoint, shrink_singular_values
from studies.peers.mdcsrn_gan import MDCSRN, MDCSRNGAN
from studies.peers.minet import MINet
from studies.peers.reconresnet import ReconResNet
from studies.peers.rescnn import ResCNN
from studies.peers.sanet import SANet
from studies.peers.scan import Scan
from studies.peers.smore import WideResidualNetwork
from studies.peers.srcnn3d import SRCNN3D
from studies.peers.supervised import Supervised
from studies.peers.training import random_pairs, train_within
from studies.peers.tscn import TSCN, SliceInterpolator
from studies.peers.two_contrast import TwoContrastLearner
from studies.peers.uassr import UASSR, DisentangledNetwork
from studies.peers.volume import VolumeLearner, in_blocks, random_blocks
from studies.peers.zssr import ZSSRNetwork

K = 4
BUDGET_S = {"tscn": 6.0, "uassr": 6.0, "mdcsrn_gan": 8.0}
LEAST_GAIN_DB = {"tscn": 0.5, "minet": 0.5, "uassr": 0.5, "dcsrn": 0.5, "mdcsrn_gan": 0.15}
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
    other = 0.3 - 0.5 * truth  # what is bright is dark in the second contrast
    return Scan(operator.degrade(truth), (1.0, 1.0, 4.0), operator, other), truth


def gain_db(result, scan, truth):
    error = [float((v - truth).square().mean()) for v in (bicubic(scan), result)]
    return 10 * np.log10(error[0] / error[1])


LEARNER = {"size": (32, 12), "batch_size": 8, "margin_slices": 2, "learning_rate": 2e-3}
MILLIMETRES = {"row_spacing_mm": (1.0, 1.0), "thin_spacing_mm": (1.0, 1.0)}
BLOCK = {"size": (12, 12, 6), "batch_size": 2, "margin_slices": 2, "learning_rate": 3e-3, "side": 24, "halo": 6}
UNPAIRED = {
    **LEARNER,
    **MILLIMETRES,
    "batch_size": 3,
    "adversarial_weight": 1e-3,
    "critic_width": 4,
    "critic_layers": 2,
}

PEERS = {
    "zssr": lambda: InPlaneLearner(ZSSRNetwork(layers=6, features=16), largest_scale=1.2, **LEARNER),
    "smore": lambda: InPlaneLearner(WideResidualNetwork(K, 3, 16, 2), largest_scale=1.0, **LEARNER),
    "tscn": lambda: TSCN(
        SliceInterpolator(K, 2, 3, 16, 16), size=24, batch_size=8, stage1_fraction=0.8, cycle_weight=0.5,
        margin_slices=1, learning_rate=2e-3,
    ),
    "rdn_supervised": lambda: Supervised(
        SRNet(2, 3, 16, 16, sets=4, thin_features=8, hidden=8), **LEARNER, **MILLIMETRES
    ),
    "reconresnet": lambda: Supervised(ReconResNet(features=8, blocks=2, dropout=0.0), **LEARNER, **MILLIMETRES),
    "rescnn": lambda: Supervised(ResCNN(features=16, blocks=2), **LEARNER, **MILLIMETRES),
    "minet": lambda: TwoContrastLearner(MINet(stages=2, features=8), **{**LEARNER, "batch_size": 4}),
    "sanet": lambda: TwoContrastLearner(SANet(stages=2, features=8), **{**LEARNER, "batch_size": 4}),
    "gan_circle": lambda: GANCircle(
        CircleGenerator(layers=4, features=16, least_features=8, compressed=8), cycle=1.0, identity=0.5,
        sparsity=1e-3, **UNPAIRED,
    ),
    "uassr": lambda: UASSR(
        DisentangledNetwork(features=16, content_blocks=1, blocks=1, code_length=4), latent=0.1,
        scale_factors=(2.0, 4.0), **UNPAIRED,
    ),
    "srcnn3d": lambda: VolumeLearner(SRCNN3D(kernels=(5, 1, 5), features=(16, 8)), **BLOCK),
    "deepresolve": lambda: VolumeLearner(DeepResolve(layers=4, features=8), **BLOCK),
    "dcsrn": lambda: VolumeLearner(DCSRN(growth=6, units=3), **BLOCK),
    "mdcsrn_gan": lambda: MDCSRNGAN(
        MDCSRN(growth=6, units=2, blocks=2), pretraining=0.8, adversarial_weight=1e-3, critic_width=4,
        critic_layers=2, **BLOCK,
    ),
    "arssr": lambda: VolumeLearner(
        ArSSR(features=12, growth=8, units=2, blocks=1, hidden=24, layers=4), scale_factors=(2.0, 4.0), **BLOCK
    ),
}  # fmt: skip


def train(name, peer, scan, budget_s):
    if name in ("zssr", "smore", "minet", "sanet"):
        return peer.train(scan, budget_s, 0, CPU, None)
    if name == "tscn":
        return peer.train([scan], budget_s, 0, CPU, None)
    volumes = [(spheres((48, 48, 48), seed)[None], (1.0, 1.0, 1.0)) for seed in (1, 2)]
    if name in ("gan_circle", "uassr"):
        return peer.train([scan], volumes, budget_s, 0, CPU, None)
    return peer.train(volumes, scan.operator, budget_s, 0, CPU, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PEERS))
def test_every_learned_peer_finds_the_known_answer_and_more_budget_brings_it_closer(name, problem):
    scan, truth = problem
    torch.manual_seed(0)
    peer = PEERS[name]()
    gains = []
    for budget_s in (0.5, BUDGET_S.get(name, 4.0)):
        result = peer.apply(train(name, peer, scan, budget_s), scan)
        assert result.shape == truth.shape
        gains.append(gain_db(result, scan, truth))
    assert abs(shift_voxels(result.numpy(), truth.numpy(), 2)) < LARGEST_SHIFT / 2
    moved = shift(result.numpy(), (0, 0, 0.5), order=3, mode="nearest")
    assert shift_voxels(moved, truth.numpy(), 2) > LARGEST_SHIFT  # half a voxel would be seen in this row
    least = LEAST_GAIN_DB.get(name, 1.5)
    assert gains[1] > least
    assert gains[1] > gains[0] + min(0.2, least / 3)


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
        ProcessorBudget(0, [torch.optim.SGD([torch.zeros(1)], 0.1)], None, "cpu")


@pytest.mark.parametrize(
    "network", [ZSSRNetwork(3, 4), WideResidualNetwork(K, 1, 4, 2), ReconResNet(4, 1, 0.1), ResCNN(4, 1)]
)
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
        run_eclare(tmp_path / "thick.nii.gz", tmp_path / "out", 1.0, 300, 16, (8, 8, 8), np.eye(4))
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 2), np.float32), np.diag([0.5, 0.5, 2.0, 1.0])), tmp_path / "thick.nii.gz")
    # a stand-in with its command line: a thickness in pixels (0.8 x 2 mm / 0.5 mm); it answers on a grid of its own
    grid = np.diag([1.0, 1.0, 0.5, 1.0])
    grid[2, 3] = -3.0
    ramp = np.broadcast_to(np.arange(40) * 0.5 - 3.0, (8, 8, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(ramp, grid), tmp_path / "answer.nii.gz")
    program = tmp_path / "run-eclare"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --in-fpath ] && [ "$3" = --out-dir ] && [ "$5 $6" = "--relative-slice-thickness 3.2" ]'
        ' && [ "$7 $8 $9" = "--n-patches 300 --batch-size" ] || exit 2\n'
        f'/bin/cp {tmp_path}/answer.nii.gz "$4/thick_eclare.nii.gz"\n'
    )
    program.chmod(0o755)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    volume, seconds = run_eclare(tmp_path / "thick.nii.gz", tmp_path / "out", 0.8, 300, 16, (8, 8, 10), affine)
    np.testing.assert_allclose(volume, np.broadcast_to(np.arange(10.0), (8, 8, 10)), atol=1e-4)
    assert seconds >= 0
    with pytest.raises(RuntimeError, match="must leave one result, got exit code 2"):
        run_eclare(tmp_path / "thick.nii.gz", tmp_path / "out2", 0.7, 300, 16, (8, 8, 10), affine)


def test_the_convex_problem_is_solved_as_an_independent_solver_solves_it():
    """LRTV of a small volume against SciPy's general minimiser, started from elsewhere, on the very objective."""
    torch.manual_seed(0)
    truth = torch.randn(5, 4, 8).cumsum(0).cumsum(2) * 0.2
    operator = SliceProfileOperator(SliceGrid.under_slab(8, 2))
    scan = Scan(operator.degrade(truth), (1.0, 1.0, 2.0), operator)
    low_rank, variation = 0.05, 0.02
    solver = LRTV(low_rank, variation, penalty=0.05, tolerance=1e-7, max_iterations=3000)
    found = solver.solve(scan, budget_s=60.0)

    def objective(x, smoothing):
        data = 0.5 * (operator.degrade(x) - scan.image).square().sum()
        steps = torch.nn.functional.pad
        slopes = [
            steps(x.diff(dim=0), (0, 0, 0, 0, 0, 1)), steps(x.diff(dim=1), (0, 0, 0, 1)), steps(x.diff(dim=2), (0, 1)),
        ]  # fmt: skip
        total = torch.sqrt(sum(s.square() for s in slopes) + smoothing).sum()
        ranks = sum(
            torch.sqrt(torch.linalg.svdvals(x.movedim(a, 0).flatten(1)) ** 2 + smoothing).sum() for a in range(3)
        )
        return data + variation * total + low_rank / 3 * ranks

    def value_and_slope(flat):
        x = torch.from_numpy(flat).view(5, 4, 8).requires_grad_()
        value = objective(x, 1e-7)
        value.backward()
        return float(value.detach()), x.grad.flatten().numpy()

    scan = Scan(scan.image.double(), scan.spacing_mm, operator)
    best = minimize(value_and_slope, np.zeros(160), jac=True, method="L-BFGS-B", options={"maxiter": 3000})
    ours = float(objective(found.double(), 0.0))
    assert ours == pytest.approx(float(objective(torch.from_numpy(best.x).view(5, 4, 8), 0.0)), rel=2e-3)
    assert ours < float(objective(bicubic(scan), 0.0))


def test_parts_of_the_convex_problem():
    x, w = torch.randn(4, 5, 6), torch.randn(3, 4, 5, 6)
    assert float((gradient(x) * w).sum()) == pytest.approx(float((x * gradient_adjoint(w)).sum()), abs=1e-4)
    shrunk = shrink_singular_values(x, 1, 0.5)
    u, s, v = np.linalg.svd(np.moveaxis(x.numpy(), 1, 0).reshape(5, 24), full_matrices=False)
    expected = np.moveaxis(((u * np.maximum(s - 0.5, 0)) @ v).reshape(5, 4, 6), 0, 1)
    np.testing.assert_allclose(shrunk, expected, atol=1e-4)


@pytest.mark.parametrize("low_rank", [0.0, 0.03])
def test_tv_and_lrtv_gain_where_edges_are_sharp_and_lie_on_the_grid(low_rank, problem):
    scan, truth = problem
    result = LRTV(low_rank, 0.004, penalty=0.02, tolerance=1e-3, max_iterations=40).solve(scan, budget_s=60.0)
    assert gain_db(result, scan, truth) > gain_db(bicubic_dc(scan), scan, truth) + 0.5
    assert abs(shift_voxels(result.numpy(), truth.numpy(), 2)) < LARGEST_SHIFT / 2
    # no time: one iteration, which is worse
    first = LRTV(low_rank, 0.004, penalty=0.02, tolerance=1e-3, max_iterations=40).solve(scan, budget_s=0.0)
    assert gain_db(first, scan, truth) < gain_db(result, scan, truth)


def test_blocks_are_made_by_the_operator_at_any_factor_and_repeat_with_the_seed():
    volume = spheres((30, 32, 34), seed=3)[None]
    operator = SliceProfileOperator(SliceGrid.over_slab(5, K), "box")

    def draw(seed, factors=None):
        return random_blocks([(volume, (1.0, 1.0, 1.0))], operator, (8, 6, 24), 2, 8, seed, CPU, factors)()

    thick, thin, positions, condition = draw(1)
    assert (thick.shape, thin.shape) == ((2, 1, 8, 6, 6), (2, 1, 8, 6, 24))
    assert (len(positions), condition.shape) == (24, (2, 4))
    np.testing.assert_allclose(thick, thin.unflatten(-1, (6, K)).mean(-1), atol=1e-5)
    assert torch.equal(thick, draw(1)[0])
    assert not torch.equal(thick, draw(2)[0])
    thick, thin, positions, condition = draw(1, (2.5, 2.5))
    assert thick.shape[-1] == 10  # 24 thin slices at K = 2.5
    np.testing.assert_allclose(1 / condition[:, 0], 2.5)


def test_blocks_of_a_scan_join_without_a_seam():
    network = VolumeLearner(SRCNN3D((3, 1, 3), (2, 2)), **BLOCK).network
    scan = Scan(spheres((20, 14, 5), 0), (1.0, 1.0, 2.5), SliceProfileOperator(SliceGrid.over_slab(5, 2.5)))
    with torch.no_grad():
        whole = network(scan.image[None, None], scan.positions, None)[0, 0]
    np.testing.assert_allclose(in_blocks(network, scan, side=8, halo=2), whole, atol=1e-6)


def test_a_multi_contrast_row_needs_its_second_contrast(problem):
    scan, _ = problem
    alone = Scan(scan.image, scan.spacing_mm, scan.operator)
    with pytest.raises(ValueError, match="needs a second contrast of the patient, got none; give --reference"):
        PEERS["minet"]().train(alone, 0.1, 0, CPU, None)


def test_the_second_contrast_is_used():
    for name in ("minet", "sanet"):
        network = PEERS[name]().network
        image, reference = torch.randn(2, 1, 9, 16), torch.randn(2, 1, 9, 16)
        output = network(image, reference)
        assert output.shape == image.shape
        assert not torch.allclose(output, network(image, -reference), atol=1e-6)


def test_critic_learns_which_is_which_and_the_penalty_keeps_its_slope_low():
    slopes = []
    for penalty in (0.0, 10.0):
        torch.manual_seed(0)
        network = patch_critic(width=4, layers=2, dimensions=3)
        critic = Critic(network, 2e-3, penalty)
        real, fake = torch.ones(4, 1, 8, 8, 8), -torch.ones(4, 1, 8, 8, 8)
        for _ in range(60):
            critic.step(real + 0.1 * torch.randn_like(real), fake + 0.1 * torch.randn_like(fake))
        assert float(network(real).mean().detach()) > float(network(fake).mean().detach()) + 1
        assert float(critic.fool(real).detach()) < float(critic.fool(fake).detach())
        between = torch.zeros(1, 1, 8, 8, 8, requires_grad=True)
        network(between).mean().backward()
        slopes.append(float(between.grad.norm()))
    assert 0.3 < slopes[1] < slopes[0] / 2


@pytest.mark.parametrize("factor", [2.5, 4.0])
@pytest.mark.parametrize("name", ["arssr", "uassr"])
def test_rows_for_any_factor_take_any(name, factor):
    grid = SliceGrid.over_slab(6, factor)
    scan = Scan(spheres((16, 12, 6), 0), (1.0, 1.0, factor), SliceProfileOperator(grid))
    peer = PEERS[name]()
    result = peer.apply(peer.network, scan)
    assert result.shape == (16, 12, grid.n_thin)
    np.testing.assert_allclose(result, bicubic(scan), atol=0.3)  # an untrained network starts close to cubic
