# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from monai.bundle import ConfigParser
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.interpolation import interpolate_cubic
from scripts.networks.srnet import SRNet

from tests.conftest import BUNDLE, TINY_NETWORK, oriented_scan, smooth_volume, told

K = 4


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = SRNet(**{**TINY_NETWORK, "blocks": 2, "features": 6, "thin_features": 6}).eval()
    for parameter in network.parameters():  # a network that does something, unlike a fresh one
        parameter.data *= 1.5
    network.reconstruct.weight.data *= 10
    return network


@pytest.fixture
def volume():
    return torch.from_numpy(smooth_volume((30, 26, 7))) / 500 - 1


@torch.no_grad()
def plain_loop(volume, network, flips=((),), scale_factor=K, profile="gaussian", channel=0):
    """One slice after the other, as a reader of the paper would write it."""
    passes, acquisition = [], told(volume.shape[-1], scale_factor, profile=profile)
    for flip in flips:
        first, second = [], []
        for i in range(volume.shape[0]):
            image = volume[i].flip([a - 1 for a in flip])
            first.append(network(image[None, None], *acquisition)[0, channel].flip([a - 1 for a in flip]))
        for j in range(volume.shape[1]):
            image = volume[:, j].flip([a - 1 for a in flip])
            second.append(network(image[None, None], *acquisition)[0, channel].flip([a - 1 for a in flip]))
        passes += [torch.stack(first, 0), torch.stack(second, 1)]
    return torch.stack(passes)


def infer(volume, network, **arguments):
    settings = {"background": float("-inf"), "progress": False, **arguments}
    scale_factor = settings.pop("scale_factor", K)
    return ThroughPlaneInferer("gaussian", **settings)(oriented_scan(volume, scale_factor)[None], network)[0]


def on_thin(mask, scale_factor=K):
    """A mask of thick slices on the thin ones."""
    return mask.repeat_interleave(scale_factor, dim=-1)


@pytest.mark.parametrize(("scale_factor", "n_thin"), [(4, 28), (2.5, 18), (3.31, 23)])
def test_is_the_mean_of_both_orientations(volume, network, scale_factor, n_thin):
    result = infer(volume, network, scale_factor=scale_factor)
    assert result.shape == (1, 30, 26, n_thin)
    expected = plain_loop(volume, network, scale_factor=scale_factor).mean(0)
    torch.testing.assert_close(result[0], expected, atol=1e-5, rtol=1e-5)


def test_the_network_is_told_the_spacing_thickness_and_profile_of_each_orientation(volume):
    seen = []

    def listen(image, positions, condition):
        seen.append((tuple(image.shape[2:]), condition[0].tolist()))
        return interpolate_cubic(image, positions)

    scan = oriented_scan(volume, 2.5, (0.8, 1.2, 5.0), slice_thickness_mm=4.0)[None]
    ThroughPlaneInferer("box", background=float("-inf"), progress=False)(scan, listen)
    told_by_shape = dict(seen)
    # images along the first axis have the second as rows
    for shape, rows_mm in (((26, 7), 1.2), ((30, 7), 0.8)):
        expected = [1 / 2.5, 0.8, 0.8 / 12**0.5, rows_mm / 5]
        assert told_by_shape[shape] == pytest.approx(expected, rel=1e-5)


def test_expected_error_is_the_mean_over_the_passes_and_nothing_in_air(volume, network):
    result = infer(volume, network, error_map=True, disagreement=True, background=-0.95)
    assert result.shape[0] == 3
    expected = plain_loop(volume, network, channel=1).exp().mean(0)
    inside = on_thin(volume > 0)
    torch.testing.assert_close(result[2][inside], expected[inside], atol=1e-3, rtol=1e-2)
    air = infer(torch.full((12, 12, 5), -1.0), network, error_map=True, background=-0.95)
    assert (air[1] == 0).all()
    with pytest.raises(ValueError, match="must tell its expected error"):
        infer(volume, lambda image, positions, condition: interpolate_cubic(image, positions), error_map=True)


def test_a_plain_tensor_does_not_know_its_grid(volume, network):
    with pytest.raises(TypeError, match="must be a MetaTensor that knows its grid"):
        ThroughPlaneInferer("gaussian")(volume[None, None], network)


@pytest.mark.parametrize("batch_pixels", [1, 50, 26 * 7, 10**6])
def test_batch_size_changes_nothing(volume, network, batch_pixels):
    expected = infer(volume, network)
    found = infer(volume, network, batch_pixels=batch_pixels, window_pixels=max(50, batch_pixels), halo=40)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_flips_are_undone(volume, network):
    expected = plain_loop(volume, network, flips=((), (1,), (2,), (1, 2)))
    torch.testing.assert_close(infer(volume, network, flips=True)[0], expected.mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flips", [False, True])
def test_spread_is_the_standard_deviation_over_the_passes(volume, network, flips):
    passes = plain_loop(volume, network, ((), (1,), (2,), (1, 2)) if flips else ((),))
    result = infer(volume, network, flips=flips, disagreement=True)
    torch.testing.assert_close(result[0], passes.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[1], passes.std(0, unbiased=False), atol=1e-4, rtol=1e-3)


def test_air_is_skipped_and_tissue_is_not_touched(network):
    volume = torch.full((60, 64, 7), -1.0)
    tissue = torch.from_numpy(smooth_volume((20, 18, 7))) / 500 - 1
    volume[8:28, 30:48] = tissue
    seen = []

    def counting(image, *acquisition):
        seen.append(image.numel())
        return network(image, *acquisition)

    full = infer(volume, network)[0]
    skipped = infer(volume, counting, air_margin=12, background=-0.95)[0]
    assert sum(seen) < 0.5 * 2 * volume.numel()
    mask = on_thin(volume > -0.95)
    assert (full - skipped)[mask].abs().max() < 2e-3 * 2
    # far from tissue the result is cubic interpolation of air
    torch.testing.assert_close(skipped[55:, :10], interpolate_cubic(volume[55:, :10], told(7, K)[0]))


def test_only_the_box_of_the_tissue_is_computed():
    """Counted by hand: a block of 8 x 10 x 6 in air, margin 2, one image per forward and many."""
    volume = torch.full((30, 40, 20), -1.0)
    volume[11:19, 15:25, 7:13] = 0.5
    seen = []

    def shapes(image, positions, condition):
        seen.append(tuple(image.shape))
        return interpolate_cubic(image, positions)

    settings = {"air_margin": 2, "background": -0.95}
    one = infer(volume, shapes, batch_pixels=1, **settings)
    assert seen == 8 * [(1, 1, 14, 10)] + 10 * [(1, 1, 12, 10)]
    seen.clear()
    many = infer(volume, shapes, batch_pixels=10**6, **settings)
    assert seen == [(8, 1, 14, 10), (10, 1, 12, 10)]
    torch.testing.assert_close(one, many)


def test_images_of_unlike_boxes_are_computed_apart():
    """A staircase: joined images would compute three times what each needs."""
    volume = torch.full((3, 60, 5), -1.0)
    for i, start in enumerate((0, 20, 40)):
        volume[i, start : start + 20] = 0.5
    seen = []

    def count(image, positions, condition):
        seen.append(image.numel())
        return interpolate_cubic(image, positions)

    infer(volume, count, batch_pixels=10**6, air_margin=0, background=-0.95)
    assert sum(seen) == 2 * 3 * 20 * 5


def test_all_air_gives_air(network):
    volume = torch.full((12, 12, 5), -1.0)

    def never(image, positions, condition):
        raise AssertionError("air costs nothing")

    result = infer(volume, never, background=-0.95)
    torch.testing.assert_close(result, torch.full((1, 12, 12, 20), -1.0))


def test_windows_of_a_large_image_agree_inside_the_halo(network):
    torch.manual_seed(1)
    volume = torch.rand(2, 200, 6) * 2 - 1
    whole = infer(volume, network)
    windowed = infer(volume, network, window_pixels=50 * 6, halo=16)
    torch.testing.assert_close(windowed, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("edge", [-0.5, 0.9])
def test_skipped_air_changes_tissue_by_less_than_a_thousandth_with_the_shipped_weights(edge):
    """As inference.json has it; the range is 2. The hardest case is a straight edge of bright tissue."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", "progress": False})
    shipped, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(3, 90, 10, generator=generator) * 0.04 - 1  # air is not quite constant
    volume[:, 50:70] = edge + 0.1 * torch.rand(3, 20, 10, generator=generator)
    seen = []

    def counting(image, *acquisition):
        seen.append(image.numel())
        return shipped(image, *acquisition)

    skipped = inferer(oriented_scan(volume, K)[None], counting)[0, 0]
    expected = plain_loop(volume, shipped, profile="box").mean(0)
    mask = on_thin(volume > inferer.background)
    # images along the edge hold 20 rows of tissue and a margin of 12 on both sides; of those across it, 20 are no air
    assert sum(seen) == 3 * 44 * 10 + 20 * 3 * 10
    assert (skipped - expected)[mask].abs().max() < 1e-3 * 2


def test_mixed_precision_keeps_the_result_within_its_tolerance():
    """An error 60 dB below the range costs a result of 40 dB PSNR less than 0.05 dB."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu", "progress": False})
    shipped = parser.get_parsed_content("network")
    volume = torch.from_numpy(smooth_volume((40, 36, 9))) / 500 - 1
    difference = infer(volume, shipped, autocast="bfloat16") - infer(volume, shipped)
    assert 0 < difference.square().mean().sqrt() < 2 * 10 ** (-60 / 20)


@pytest.mark.parametrize("knob", ["batch_pixels", "window_pixels", "halo", "air_margin", "waste"])
def test_negative_size_is_refused(knob):
    with pytest.raises(ValueError, match=f"{knob} must be >= "):
        ThroughPlaneInferer("box", **{knob: -1})


def test_wrong_shape_is_refused(network):
    with pytest.raises(ValueError, match="inputs must have shape"):
        ThroughPlaneInferer("box")(oriented_scan(torch.zeros(8, 8, 5), K).expand(2, -1, -1, -1)[None], network)
