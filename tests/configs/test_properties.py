# SPDX-License-Identifier: Apache-2.0
"""The ids that MONAI and the Model Zoo look for, found by MONAI's own check."""

import pytest
from monai.bundle import ConfigWorkflow
from monai.bundle.properties import InferProperties, TrainProperties

from tests.conftest import BUNDLE, TINY, make_affine, save_nifti, smooth_volume


def workflow(kind, names, **ids):
    return ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in names],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(BUNDLE),
        **ids,
    )


def missing(found, properties):
    """Required ids that are absent; MONAI 1.6.1 raises KeyError for the first of them instead of listing it."""
    assert not found.check_properties()
    return [name for name, facts in properties.items() if facts["required"] and facts["id"] not in found.parser]


def test_inference(tmp_path):
    save_nifti(tmp_path / "in" / "a.nii.gz", smooth_volume((20, 20, 8)), make_affine([1, 1, 4]))
    found = workflow("infer", ["inference.json"], dataset_dir=str(tmp_path / "in"), device="cpu")
    found.initialize()
    assert missing(found, InferProperties) == []


@pytest.mark.parametrize("stage", [1, 2])
def test_training(stage, tmp_path, training_data):
    names = ["common.json", f"train_stage{stage}.json"]
    ids = {**training_data, **TINY, "output_dir": str(tmp_path / "out"), "stage_iterations": 2}
    if stage == 2:
        ids |= {"stage1_weights": None}
    found = workflow("train", names, **{k: v for k, v in ids.items() if k != "bundle_root"})
    found.initialize()
    assert missing(found, TrainProperties) == []
