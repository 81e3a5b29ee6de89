# SPDX-License-Identifier: Apache-2.0
"""What is chosen for a scan, and what is said about it."""

import logging

import numpy as np
import pytest
from scripts.reasons import CaseError, Reason
from scripts.transforms.grid import ChooseGridd

from tests.conftest import oriented_scan


def choose(spacing_mm, target_spacing_mm="isotropic", scale_factor=None, max_scale_factor=8):
    image = oriented_scan(np.zeros((8, 8, 5)), None, spacing_mm)
    data = ChooseGridd("image", target_spacing_mm, scale_factor, max_scale_factor)({"image": image})
    return data["image"].meta["scale_factor"]


@pytest.mark.parametrize(
    ("spacing_mm", "ids", "expected"),
    [
        ((0.9, 0.9, 3.6), {}, 4.0),
        ((0.8, 1.1, 4.4), {}, 5.5),  # the finer of the two in-plane spacings
        ((1.1, 0.8, 4.4), {}, 5.5),
        ((0.5, 0.5, 3.0), {"target_spacing_mm": 1.0}, 3.0),
        ((0.5, 0.5, 5.5), {"target_spacing_mm": 1.25}, 4.4),
        ((1.0, 1.0, 2.0), {"target_spacing_mm": 0.5}, 4.0),
        ((0.5, 0.5, 5.0), {"scale_factor": 3}, 3.0),
        ((0.5, 0.5, 5.0), {"scale_factor": 2.5}, 2.5),
        ((0.5, 0.5, 5.0), {"scale_factor": 2.5, "target_spacing_mm": None}, 2.5),
    ],
)
def test_factor_by_hand(spacing_mm, ids, expected, caplog):
    with caplog.at_level(logging.INFO):
        assert choose(spacing_mm, **ids) == pytest.approx(expected)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"{spacing_mm[2]:.4g} mm to {spacing_mm[2] / expected:.4g} mm" in record.message


def test_a_target_that_needs_more_than_allowed_is_limited_with_a_warning(caplog):
    assert choose((0.4, 0.4, 6.0)) == 8.0  # would need 15
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "would need K = 15 and at most 8 is allowed" in record.message
    assert choose((0.4, 0.4, 6.0), max_scale_factor=20) == pytest.approx(15)


@pytest.mark.parametrize(("spacing_mm", "target"), [((1.0, 1.0, 2.0), 2.0), ((1.0, 1.0, 2.0), 3.0)])
def test_a_scan_as_fine_as_the_target_is_refused(spacing_mm, target):
    with pytest.raises(CaseError, match="slice spacing must be larger than the target") as caught:
        choose(spacing_mm, target)
    assert caught.value.reason == Reason.ISOTROPIC


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("cubic", None, 8), "target_spacing_mm must be a number of mm > 0 or 'isotropic', got 'cubic'"),
        ((0, None, 8), "target_spacing_mm must be a number of mm > 0"),
        ((None, None, 8), "target_spacing_mm must be a number of mm > 0"),
        ((1.0, 3, 8), "only one of target_spacing_mm and scale_factor"),
        (("isotropic", 1, 8), "scale_factor must be > 1"),
        (("isotropic", 9, 8), r"scale_factor must be > 1 and <= max_scale_factor \(8\), got 9"),
    ],
)
def test_ids_that_contradict_each_other_are_refused_at_once(ids, message):
    with pytest.raises(ValueError, match=message):
        ChooseGridd("image", *ids)
