# SPDX-License-Identifier: Apache-2.0
"""LPIPS: equal to the package's own plain use, from a file or torch hub's cache, and never from random weights."""

import lpips
import numpy as np
import pytest
import torch
from scripts.evaluation.lpips import FILE_NAME, SliceLPIPS, find_alexnet
from scripts.evaluation.metrics import foreground, score_volume
from torchvision.models import alexnet

from tests.conftest import smooth_volume


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A torch home whose cache holds an AlexNet of random weights."""
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(5)
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), home / "hub" / "checkpoints" / FILE_NAME)
    return home


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Nobody's cache, and no way out."""

    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))


@pytest.fixture
def features(hub, tmp_path):
    """The same weights without the classifier."""
    state = torch.load(hub / "hub" / "checkpoints" / FILE_NAME, weights_only=True)
    path = tmp_path / "features.pth"
    torch.save({key: value for key, value in state.items() if key.startswith("features.")}, path)
    return path


@pytest.fixture
def pair():
    truth = smooth_volume((34, 40, 36), seed=4)
    return truth + np.random.default_rng(0).normal(0, 90, truth.shape).astype(np.float32), truth


@pytest.mark.filterwarnings("ignore::UserWarning")  # the package calls torchvision the old way
@pytest.mark.parametrize("thick_axis", [0, 2])
def test_equals_the_package_used_as_its_page_says(hub, features, pair, monkeypatch, thick_axis):
    result, truth = pair
    tissue = foreground(truth)
    ours = SliceLPIPS(str(features), batch_pixels=5 * 40 * 36)(result, truth, thick_axis, tissue)
    monkeypatch.setenv("TORCH_HOME", str(hub))
    plain = lpips.LPIPS(net="alex", verbose=False)  # torchvision itself loads the file, the classifier too
    values = []
    for axis in range(3):
        for i in range(truth.shape[axis]):
            if axis == thick_axis or not tissue.take(i, axis).any():
                continue
            slices = ((v.take(i, axis) - truth.min()) / np.ptp(truth) for v in (result, truth))
            pictures = [torch.from_numpy(x).float().repeat(1, 3, 1, 1) for x in slices]
            with torch.no_grad():
                values.append(plain(*pictures, normalize=True).item())
    assert len(values) > 40
    assert ours == pytest.approx(np.mean(values), abs=1e-5)
    assert ours == pytest.approx(np.mean(values), rel=1e-3)
    assert ours > 5e-3  # the noise is seen, so 1e-5 says something


def test_batches_and_the_caller_s_random_numbers_do_not_matter(features, pair):
    result, truth = pair
    tissue = foreground(truth)
    torch.manual_seed(1)
    one = SliceLPIPS(str(features), batch_pixels=1)
    drawn = torch.rand(3)
    torch.manual_seed(2)
    all_at_once = SliceLPIPS(str(features))
    assert one(result, truth, 2, tissue) == pytest.approx(all_at_once(result, truth, 2, tissue), abs=1e-6)
    assert all_at_once(truth, truth, 2, tissue) == 0
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_every_weight_of_alexnet_comes_from_the_file(features):
    state = torch.load(features, weights_only=True)
    mine = SliceLPIPS(str(features)).network.net.state_dict()
    assert len(mine) == 10
    shapes = {tuple(value.shape): value for value in state.values() if value.ndim == 4}
    for value in (v for v in mine.values() if v.ndim == 4):
        assert torch.equal(value, shapes[tuple(value.shape)])


def test_a_hub_cache_is_found_and_an_empty_one_gives_the_reason(hub, pair, monkeypatch):
    path, reason = find_alexnet(None)
    assert path is None
    assert FILE_NAME in reason
    assert "lpips_weights" in reason
    with pytest.raises(FileNotFoundError, match="lpips_weights"):
        SliceLPIPS(None)
    monkeypatch.setenv("TORCH_HOME", str(hub))
    path, reason = find_alexnet(None)
    assert path == hub / "hub" / "checkpoints" / FILE_NAME
    assert reason == ""
    result, truth = pair
    assert SliceLPIPS(None)(result, truth, 1, foreground(truth)) > 0


def test_bad_files_are_refused_early(tmp_path, features):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_alexnet(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"AlexNet, got .*text\.pth"):
        SliceLPIPS(str(tmp_path / "text.pth"))
    state = torch.load(features, weights_only=True)
    del state["features.10.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"KeyError: 'features\.10\.bias'"):
        SliceLPIPS(str(tmp_path / "part.pth"))
    torch.save({**state, "features.10.bias": torch.zeros(7)}, tmp_path / "shape.pth")
    with pytest.raises(ValueError, match=r"shape\.pth"):
        SliceLPIPS(str(tmp_path / "shape.pth"))
    torch.save(alexnet, tmp_path / "code.pth")  # a pickle that runs code
    with pytest.raises(ValueError, match="UnpicklingError"):
        SliceLPIPS(str(tmp_path / "code.pth"))


@pytest.mark.parametrize("thick_axis", range(3))
def test_thirty_one_pixels_are_the_least(features, thick_axis):
    """The stated limit is the network's own: one pixel less, and torch has nothing to pool."""
    metric = SliceLPIPS(str(features))
    metric.network(*torch.zeros(2, 1, 3, 31, 31))
    with pytest.raises(RuntimeError, match="too small"):
        metric.network(*torch.zeros(2, 1, 3, 30, 31))
    for axis in range(3):
        truth = smooth_volume([30 if a == axis else 33 for a in range(3)])
        scores = score_volume(truth + 1, truth, thick_axis, lpips=metric)
        assert scores["lpips"] is None
        assert "31 pixels" in metric.refusal(truth.shape, thick_axis)
        with pytest.raises(ValueError, match="31 pixels"):
            metric(truth, truth, thick_axis, truth > 0)


def test_the_score_table_always_has_the_key(features, pair):
    result, truth = pair
    metric = SliceLPIPS(str(features))
    without, with_it = score_volume(result, truth, 2), score_volume(result, truth, 2, lpips=metric)
    assert without["lpips"] is None
    assert with_it.pop("lpips") == pytest.approx(metric(result, truth, 2, foreground(truth)))
    assert {k: v for k, v in without.items() if k != "lpips"} == with_it
