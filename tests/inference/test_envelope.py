# SPDX-License-Identifier: Apache-2.0
"""What is measured of a scan, and what happens outside the envelope."""

import json
import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.inference.envelope import outside_envelope
from scripts.reasons import CaseError, Reason
from scripts.transforms.envelope import CheckEnvelope, CheckEnveloped, scan_facts

from tests.conftest import BUNDLE


@pytest.fixture
def scan():
    """Half air, half tissue at a known level with known noise."""
    rng = np.random.default_rng(0)
    voxels = np.full((1, 64, 64, 8), -1.0)
    voxels[:, 32:] = 0.2 + rng.normal(0, 0.06, (1, 32, 64, 8))
    meta = {"working_spacing_mm": np.array([0.5, 1.0, 4.0]), "slice_thickness_mm": 3.0}
    return MetaTensor(torch.from_numpy(voxels).float(), meta=meta)


def test_facts_are_those_the_scan_was_made_with(scan):
    facts = scan_facts(scan)
    assert facts["in_plane_spacing_mm"] == 1.0
    assert facts["in_plane_anisotropy"] == 2.0
    assert facts["slice_spacing_mm"] == 4.0
    assert facts["slice_thickness_to_spacing"] == 0.75
    assert facts["noise_sigma"] == pytest.approx(0.03, rel=0.25)  # 0.06 of a range of two; a low percentile
    assert facts["tissue_fraction"] == 0.5
    assert facts["median_tissue"] == pytest.approx(0.6, abs=0.01)


def test_limits_include_their_ends_and_an_unstated_thickness_is_not_outside():
    assert outside_envelope({"a": 1.0, "b": 2.0}, {"a": (1.0, 2.0), "b": (1.0, 2.0)}) == []
    assert outside_envelope({"a": float("nan")}, {"a": (0.7, 1.2)}) == []
    (line,) = outside_envelope({"a": 2.5, "b": 2.0}, {"a": (1.0, 2.0), "b": (1.0, 2.0)})
    assert line == "a must lie in 1 to 2, got 2.5"
    with pytest.raises(ValueError, match="envelope must name measured values"):
        outside_envelope({"a": 1.0}, {"c": (0.0, 1.0)})


def test_policy_warns_or_refuses(scan, caplog):
    limits = {"in_plane_anisotropy": (1.0, 1.5), "slice_spacing_mm": (2.5, 6.0)}
    with caplog.at_level(logging.WARNING):
        result = CheckEnveloped("image", limits=limits)({"image": scan})
    assert result["image"].meta["outside_envelope"] == ["in_plane_anisotropy must lie in 1 to 1.5, got 2"]
    assert "outside the validity envelope" in caplog.text
    with pytest.raises(CaseError, match="in_plane_anisotropy") as caught:
        CheckEnvelope(limits, "refuse")(scan)
    assert caught.value.reason == Reason.OUTSIDE_ENVELOPE
    with pytest.raises(ValueError, match="envelope_policy must be one of"):
        CheckEnvelope(limits, "ignore")


@pytest.mark.parametrize(("found", "known", "n_lines"), [
    ("prostate", ["head"], 1), ("head", ["head", "knee"], 0), ("", ["head"], 0), ("prostate", [], 0),
])  # fmt: skip
def test_another_part_of_the_body_is_outside(scan, found, known, n_lines):
    scan.meta["body_part"] = found
    lines = CheckEnvelope({}, body_parts=known)(scan)
    assert len(lines) == n_lines
    if n_lines:
        assert lines == ["body part must be one of head, got prostate"]
        with pytest.raises(CaseError, match="prostate"):
            CheckEnvelope({}, "refuse", body_parts=known)(scan)


def test_slices_far_thinner_than_their_spacing_are_refused_unless_told_otherwise(scan):
    scan.meta["slice_thickness_mm"] = 0.5
    with pytest.raises(CaseError) as caught:
        CheckEnvelope({}, min_thickness_to_spacing=0.3)(scan)
    assert caught.value.reason == Reason.THIN_SLICES
    assert CheckEnvelope({}, min_thickness_to_spacing=0.1)(scan) == []
    assert CheckEnvelope({}, min_thickness_to_spacing=0.3, slice_thickness_mm=4)(scan) == []
    scan.meta["slice_thickness_mm"] = float("nan")
    assert CheckEnvelope({}, min_thickness_to_spacing=0.3)(scan) == []


def test_config_and_metadata_state_the_same_limits(scan):
    config, metadata = (json.loads((BUNDLE / "configs" / f"{n}.json").read_text()) for n in ("inference", "metadata"))
    stated = metadata["validity_envelope"]
    assert config["envelope"] == stated["limits"]
    assert config["min_anisotropy"] == stated["min_anisotropy"]
    assert config["max_scale_factor"] == stated["scale_factor"][1]
    assert set(config["envelope"]) == set(scan_facts(scan))
