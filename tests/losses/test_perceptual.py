# SPDX-License-Identifier: Apache-2.0
"""Eq. 4 with a phi that can be computed by hand, and the pretrained phi against its layers one by one."""

import pytest
import torch
from scripts.losses.features import PretrainedFeatures, require_features
from scripts.losses.perceptual import PerceptualLoss
from torch.nn import functional as F
from torchvision.models import squeezenet1_1

from tests.conftest import SHARED

VGG16 = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}


def phi(image):
    return torch.cat([image**2, 3 * image], dim=1)


def images(*learn):
    torch.manual_seed(0)
    return [torch.randn(2, 1, 3, 4).requires_grad_(flag) for flag in learn]


def naive(a, b, instance_norm):
    total = 0.0
    for i in range(len(a)):
        maps = [phi(x[i : i + 1])[0] for x in (a, b)]
        if instance_norm:
            maps = [
                (m - m.mean((1, 2), keepdim=True)) / (m.var((1, 2), keepdim=True, unbiased=False) + 1e-5).sqrt()
                for m in maps
            ]
        total = total + (maps[0] - maps[1]).square().sum() / maps[0].numel()  # 1 / CHW
    return total / len(a)


@pytest.mark.parametrize("instance_norm", [True, False])
@pytest.mark.parametrize("learn", [(1, 1, 1, 0), (1, 0, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1)])
def test_value_and_gradient(instance_norm, learn):
    mr_to_ct, mr, ct_to_mr, ct = batch = images(*map(bool, learn))
    terms = PerceptualLoss(phi, instance_norm)(*batch)
    expected = {"mr_to_ct": naive(mr_to_ct, mr, instance_norm), "ct_to_mr": naive(ct_to_mr, ct, instance_norm)}
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    learners = [x for x in batch if x.requires_grad]
    if learners:
        ours = torch.autograd.grad(sum(terms.values()), learners)
        torch.testing.assert_close(ours, torch.autograd.grad(sum(expected.values()), learners))


def test_instance_norm_is_the_default_and_phi_runs_once_with_and_once_without_a_graph():
    seen = []

    def counting(image):
        seen.append((len(image), torch.is_grad_enabled()))
        return phi(image)

    batch = images(True, False, True, False)
    terms = PerceptualLoss(counting)(*batch)
    assert seen == [(4, True), (4, False)]
    torch.testing.assert_close(terms["mr_to_ct"], naive(batch[0], batch[1], instance_norm=True))


def test_features_of_low_precision_are_compared_in_float32():
    batch = images(True, False, True, False)
    terms = PerceptualLoss(lambda x: phi(x).bfloat16())(*batch)
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_contrast_and_brightness_of_a_modality_do_not_count():
    image = images(True)[0]
    terms = PerceptualLoss(lambda x: 2 * x)(image, 5 * image.detach() + 1, image, image.detach())
    assert all(term < 1e-4 for term in terms.values())


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)  # with its classifier, as torchvision's file
    return path


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    torch.manual_seed(0)
    path, state, channels = tmp_path_factory.mktemp("weights") / "vgg16.pth", {}, 3
    for index, width in VGG16.items():
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
        state[f"features.{index}.bias"] = 0.1 * torch.randn(width)
        channels = width
    torch.save(state, path)
    return path


def as_photograph(grey, convention):
    """Three channels in the form that the weights were trained with, a pixel at a time by hand."""
    if convention == "torchvision":
        unit = (grey + 1) / 2
        means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return torch.cat([(unit - m) / s for m, s in zip(means, deviations, strict=True)], dim=1)
    return torch.cat([(grey + 1) / 2 * 255 - m for m in (104, 117, 123)], dim=1)  # blue, green, red


@pytest.mark.parametrize("convention", ["torchvision", "caffe"])
def test_squeezenet_features(squeezenet, convention):
    network = squeezenet1_1(weights=None)
    network.load_state_dict(torch.load(squeezenet, weights_only=True))
    image = torch.rand(2, 1, 32, 48) * 2 - 1
    found = PretrainedFeatures("squeezenet", str(squeezenet), convention)(image)
    assert found.shape == (2, 512, 1, 2)
    torch.testing.assert_close(found, network.features(as_photograph(image, convention)), atol=1e-4, rtol=1e-4)


def test_vgg16_features_are_relu5_3(vgg16):
    state, image = torch.load(vgg16, weights_only=True), torch.rand(1, 1, 32, 32) * 2 - 1
    x = as_photograph(image, "torchvision")
    for index in VGG16:
        if index in (5, 10, 17, 24):
            x = F.max_pool2d(x, 2)
        x = F.relu(F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1))
    assert x.shape == (1, 512, 2, 2)
    torch.testing.assert_close(PretrainedFeatures("vgg16", str(vgg16))(image), x, atol=1e-4, rtol=1e-4)


def test_phi_is_frozen_and_lets_gradients_through(squeezenet):
    features = PretrainedFeatures("squeezenet", str(squeezenet))
    assert not features.training
    assert all(key.startswith("features.") for key in features.state_dict())  # constants are not weights
    assert not any(parameter.requires_grad for parameter in features.parameters())
    image = (torch.rand(1, 1, 32, 32) * 2 - 1).requires_grad_()
    features(image).sum().backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("backbone", ["vgg16", "squeezenet"])
def test_missing_weights_name_the_file_and_the_ids(tmp_path, backbone):
    absent = tmp_path / "absent.pth"
    for call in (PretrainedFeatures, require_features):
        kind = FileNotFoundError if call is PretrainedFeatures else SystemExit
        with pytest.raises(kind) as caught:
            call(backbone, str(absent))
        for word in (str(absent), backbone, "perceptual_backbone", "perceptual_weights", "lambda_percep"):
            assert word in str(caught.value)


def test_without_a_path_torchvisions_file_in_the_hub_cache_is_taken(tmp_path, monkeypatch, squeezenet):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for backbone, name in (("squeezenet", "squeezenet1_1-b8a52dc0.pth"), ("vgg16", "vgg16-397923af.pth")):
        with pytest.raises(FileNotFoundError, match=name):
            PretrainedFeatures(backbone)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").write_bytes(squeezenet.read_bytes())
    assert require_features("squeezenet") is None
    PretrainedFeatures("squeezenet")


def test_a_file_of_another_network_is_refused(squeezenet, tmp_path):
    with pytest.raises(ValueError, match="perceptual_weights must hold a state dict of torchvision's vgg16"):
        PretrainedFeatures("vgg16", str(squeezenet))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        PretrainedFeatures("squeezenet", str(tmp_path / "text.pth"))


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_file_that_would_run_code_is_refused_unrun(tmp_path):
    marker = tmp_path / "was_run"
    torch.save({"features.0.weight": Payload(str(marker))}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth"):
        PretrainedFeatures("squeezenet", str(tmp_path / "evil.pth"))
    assert not marker.exists()


def test_unknown_choices_are_refused(squeezenet):
    with pytest.raises(ValueError, match="perceptual_backbone must be one of"):
        PretrainedFeatures("resnet", str(squeezenet))
    with pytest.raises(SystemExit, match="perceptual_backbone must be one of"):
        require_features("resnet")
    with pytest.raises(ValueError, match="perceptual_convention must be one of"):
        PretrainedFeatures("squeezenet", str(squeezenet), "keras")


@pytest.mark.shared
def test_real_features_grow_apart_with_blur():
    weights = SHARED / "weights" / "squeezenet1_1_features.pt"
    loss = PerceptualLoss(PretrainedFeatures("squeezenet", str(weights), "caffe"))
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 1, 16, 16), size=(64, 64), mode="bicubic").clamp(0, 1) * 2 - 1
    distances = [0.0]
    for size in (3, 7, 15):
        blurred = F.avg_pool2d(image, size, stride=1, padding=size // 2, count_include_pad=False)
        distances.append(loss(blurred, image, image, image)["mr_to_ct"].item())
    assert distances == sorted(distances)
    assert distances[1] > 1e-3
