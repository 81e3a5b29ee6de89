# SPDX-License-Identifier: Apache-2.0
"""The wrappers that take volumes to unit range and back: values by hand, what they remember, what they refuse."""

import pytest
import torch
from monai.data import MetaTensor
from scripts.reasons import CaseError, Reason
from scripts.transforms.intensity import RestoreMRd, ScaleCTd, ScaleMRd


def volume(*values):
    return MetaTensor(torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1), meta={"note": 1})


def values(tensor):
    return torch.as_tensor(tensor).flatten().tolist()


def test_the_percentiles_go_to_the_ends_and_the_range_is_remembered():
    """Of 0, 10, ..., 100 the 10th percentile is 10 and the 90th is 90."""
    data = {"image": volume(*range(0, 101, 10)), "other": 5}
    result = ScaleMRd("image", 10, 90)(data)
    expected = [(x - 10) / 40 - 1 for x in range(0, 101, 10)]
    assert values(result["image"]) == pytest.approx(expected, abs=1e-6)
    assert (result["image"].meta["intensity_low"], result["image"].meta["intensity_high"]) == (10.0, 90.0)
    assert result["image"].meta["note"] == 1
    assert result["other"] == 5
    assert values(data["image"]) == list(range(0, 101, 10))  # the input stays


def test_a_plain_tensor_has_nothing_to_remember_in():
    result = ScaleMRd("image", 0, 100)({"image": torch.tensor([0.0, 4.0])})["image"]
    assert not isinstance(result, MetaTensor)
    assert result.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(CaseError, match="must be finite") as caught:
        ScaleMRd("image", 0, 100)({"image": volume(0, 1, bad)})
    assert caught.value.reason == Reason.NONFINITE


def test_a_constant_is_refused():
    with pytest.raises(CaseError, match="intensities must vary") as caught:
        ScaleMRd("image", 0, 100)({"image": volume(3, 3, 3)})
    assert caught.value.reason == Reason.CONSTANT


def test_the_way_back_is_in_place_and_a_map_has_no_offset():
    """-1 and 1 stand for 10 and 90: half the range is 40."""
    image = volume(-1, 0, 1)
    image.meta.update(intensity_low=10.0, intensity_high=90.0)
    pred, spread = torch.tensor([-2.0, 0.5]), torch.tensor([0.0, 0.25])
    result = RestoreMRd(["pred", "image"], "image", map_keys="spread")({"pred": pred, "image": image, "spread": spread})
    assert result["pred"] is pred
    assert values(pred) == pytest.approx([-30, 70])
    assert values(result["image"]) == pytest.approx([10, 50, 90])
    assert values(result["spread"]) == pytest.approx([0, 10])
    assert spread.data_ptr() == result["spread"].data_ptr()


def test_maps_may_be_several_or_missing():
    image = volume(0.0)
    image.meta.update(intensity_low=0.0, intensity_high=4.0)
    data = {"image": image, "a": torch.tensor([1.0])}
    assert values(RestoreMRd("image", map_keys=["a", "b"])(data)["a"]) == [2.0]
    assert values(data["image"]) == [2.0]
    alone = volume(0.0)
    alone.meta.update(image.meta)
    assert values(RestoreMRd("image")({"image": alone})["image"]) == [2.0]


def test_ct_is_clipped_to_its_window_and_padding_is_air():
    result = ScaleCTd("image", window_hu=[-1000, 1000], padding_below_hu=-1500)(
        {"image": volume(-3024, -1000, 0, 500, 9e3)}
    )
    assert values(result["image"]) == pytest.approx([-1, -1, 0, 0.5, 1])
    narrow = ScaleCTd("image", window_hu=[-2000, 0], padding_below_hu=-1500)({"image": volume(-1600, -1400, -2000)})
    assert values(narrow["image"]) == pytest.approx([0, -0.4, 0])


@pytest.mark.parametrize(
    "transform",
    [ScaleMRd("x", 0, 100), ScaleCTd("x", (-1, 1), -2), RestoreMRd("x", "image")],
    ids=lambda t: type(t).__name__,
)
def test_a_missing_key_is_an_error_unless_it_may_be_missing(transform):
    image = volume(0, 1)
    image.meta.update(intensity_low=0.0, intensity_high=4.0)
    with pytest.raises(KeyError):
        transform({"image": image})
    transform.allow_missing_keys = True
    assert values(transform({"image": image})["image"]) == [0, 1]


def test_missing_keys_can_be_allowed_from_the_start():
    image = volume(0, 1)
    image.meta.update(intensity_low=0.0, intensity_high=4.0)
    for transform in (
        ScaleMRd("x", 0, 100, allow_missing_keys=True), ScaleCTd("x", (-1, 1), -2, allow_missing_keys=True),
        RestoreMRd("x", "image", allow_missing_keys=True),
    ):  # fmt: skip
        assert values(transform({"image": image})["image"]) == [0, 1]
