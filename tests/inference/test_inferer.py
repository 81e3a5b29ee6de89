# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from monai.bundle import ConfigParser
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.rdn import RDN, upsample_cubic

from tests.conftest import BUNDLE, smooth_volume

K = 4


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = RDN(K, blocks=2, layers=2, growth=4, features=6).eval()
    for parameter in network.parameters():  # a network that does something, unlike a fresh one
        parameter.data *= 1.5
    network.reconstruct.weight.data *= 10
    return network


@pytest.fixture
def volume():
    return torch.from_numpy(smooth_volume((30, 26, 7))) / 500 - 1


@torch.no_grad()
def plain_loop(volume, network, flips=((),)):
    """One slice after the other, as a reader of the paper would write it."""
    passes = []
    for flip in flips:
        first, second = [], []
        for i in range(volume.shape[0]):
            image = volume[i].flip([a - 1 for a in flip])
            first.append(network(image[None, None])[0, 0].flip([a - 1 for a in flip]))
        for j in range(volume.shape[1]):
            image = volume[:, j].flip([a - 1 for a in flip])
            second.append(network(image[None, None])[0, 0].flip([a - 1 for a in flip]))
        passes += [torch.stack(first, 0), torch.stack(second, 1)]
    return torch.stack(passes)


def infer(volume, network, **arguments):
    settings = {"background": float("-inf"), "progress": False, **arguments}
    return ThroughPlaneInferer(K, **settings)(volume[None, None], network)[0]


def test_is_the_mean_of_both_orientations(volume, network):
    result = infer(volume, network)
    assert result.shape == (1, 30, 26, 28)
    torch.testing.assert_close(result[0], plain_loop(volume, network).mean(0), atol=1e-5, rtol=1e-5)


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
    result = infer(volume, network, flips=flips, spread=True)
    torch.testing.assert_close(result[0], passes.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[1], passes.std(0, unbiased=False), atol=1e-4, rtol=1e-3)


def test_air_is_skipped_and_tissue_is_not_touched(network):
    volume = torch.full((60, 64, 7), -1.0)
    tissue = torch.from_numpy(smooth_volume((20, 18, 7))) / 500 - 1
    volume[8:28, 30:48] = tissue
    seen = []

    def counting(image):
        seen.append(image.numel())
        return network(image)

    full = infer(volume, network)[0]
    skipped = ThroughPlaneInferer(K, margin=12, background=-0.95, progress=False)(volume[None, None], counting)[0, 0]
    assert sum(seen) < 0.5 * 2 * volume.numel()
    mask = (volume > -0.95).repeat_interleave(K, dim=-1)
    assert (full - skipped)[mask].abs().max() < 2e-3 * 2
    # far from tissue the result is cubic interpolation of air
    torch.testing.assert_close(skipped[55:, :10], upsample_cubic(volume[55:, None, :10], K)[:, 0])


def test_only_the_box_of_the_tissue_is_computed():
    """Counted by hand: a block of 8 x 10 x 6 in air, margin 2, one image per forward and many."""
    volume = torch.full((30, 40, 20), -1.0)
    volume[11:19, 15:25, 7:13] = 0.5
    seen = []

    def shapes(image):
        seen.append(tuple(image.shape))
        return image.repeat_interleave(K, dim=-1)

    settings = {"margin": 2, "background": -0.95, "progress": False}
    one = ThroughPlaneInferer(K, batch_pixels=1, **settings)(volume[None, None], shapes)
    assert seen == 8 * [(1, 1, 14, 10)] + 10 * [(1, 1, 12, 10)]
    seen.clear()
    many = ThroughPlaneInferer(K, batch_pixels=10**6, **settings)(volume[None, None], shapes)
    assert seen == [(8, 1, 14, 10), (10, 1, 12, 10)]
    torch.testing.assert_close(one, many)


def test_images_of_unlike_boxes_are_computed_apart():
    """A staircase: joined images would compute three times what each needs."""
    volume = torch.full((3, 60, 5), -1.0)
    for i, start in enumerate((0, 20, 40)):
        volume[i, start : start + 20] = 0.5
    seen = []

    def count(image):
        seen.append(image.numel())
        return image.repeat_interleave(K, dim=-1)

    ThroughPlaneInferer(K, batch_pixels=10**6, margin=0, progress=False)(volume[None, None], count)
    assert sum(seen) == 2 * 3 * 20 * 5


def test_all_air_gives_air(network):
    volume = torch.full((12, 12, 5), -1.0)

    def never(image):
        raise AssertionError("air costs nothing")

    result = ThroughPlaneInferer(K, background=-0.95, progress=False)(volume[None, None], never)
    torch.testing.assert_close(result, torch.full((1, 1, 12, 12, 20), -1.0))


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

    def counting(image):
        seen.append(image.numel())
        return shipped(image)

    skipped = inferer(volume[None, None], counting)[0, 0]
    expected = plain_loop(volume, shipped).mean(0)
    mask = (volume > inferer.background).repeat_interleave(K, dim=-1)
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


@pytest.mark.parametrize("knob", ["batch_pixels", "window_pixels", "halo", "margin", "waste"])
def test_negative_size_is_refused(knob):
    with pytest.raises(ValueError, match=f"{knob} must be >= "):
        ThroughPlaneInferer(K, **{knob: -1})


def test_wrong_shape_is_refused(network):
    with pytest.raises(ValueError, match="inputs must have shape"):
        ThroughPlaneInferer(K)(torch.zeros(1, 2, 8, 8, 5), network)
