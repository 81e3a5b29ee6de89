# SPDX-License-Identifier: Apache-2.0
"""What is left of a loaded scan for training: its voxels, its spacing and how thick its slices are."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.transforms.plain import PlainVolumed

VOXELS = torch.arange(24.0).reshape(1, 2, 3, 4)


def test_a_volume_that_was_not_oriented_has_the_spacing_of_its_affine():
    image = MetaTensor(VOXELS, meta={"affine": torch.diag(torch.tensor([0.5, 2.0, 3.0, 1.0]))})
    result = PlainVolumed("image")({"image": image, "case": "a"})
    assert type(result["image"]) is torch.Tensor
    assert torch.equal(result["image"], VOXELS)
    assert result["spacing_mm"] == (0.5, 2.0, 3.0)
    assert all(type(spacing) is float for spacing in result["spacing_mm"])
    assert "thickness_to_spacing" not in result
    assert result["case"] == "a"


@pytest.mark.parametrize(("thickness_mm", "expected"), [(3.0, 0.75), (float("nan"), 1.0)])
def test_an_oriented_volume_has_that_of_its_working_axes_and_its_thickness(thickness_mm, expected):
    meta = {
        "affine": torch.eye(4), "working_spacing_mm": np.array([1.0, 0.5, 4.0]), "slice_thickness_mm": thickness_mm,
    }  # fmt: skip
    image = MetaTensor(VOXELS.transpose(1, 2), meta=meta)
    result = PlainVolumed("image", spacing_key="mm")({"image": image})
    assert result["mm"] == (1.0, 0.5, 4.0)
    assert result["thickness_to_spacing"] == expected
    assert result["image"].is_contiguous()


def test_a_missing_key_is_an_error_unless_it_may_be_missing():
    with pytest.raises(KeyError):
        PlainVolumed("image")({})
    assert PlainVolumed("image", allow_missing_keys=True)({}) == {}
