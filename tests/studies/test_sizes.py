# SPDX-License-Identifier: Apache-2.0
"""The comparison of network sizes on one tiny size: parameters by hand, and every figure there."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, TINY


@pytest.mark.slow
def test_one_tiny_size(manifest_data, tmp_path):
    (tmp_path / "sizes.json").write_text('{"dot": {"blocks": 1, "layers": 1, "growth": 4, "features": 4}}')
    settings = {key: value for key, value in TINY.items() if "network_def" not in key and key != "val_interval"}
    (tmp_path / "recipe.json").write_text(json.dumps({**settings, "autocast": None}))
    subprocess.run(
        [
            *[sys.executable, "-m", "studies.sizes", "--data", manifest_data, "--output", tmp_path / "out"],
            *["--rounds", "1", "--iterations", "2", "2"],
            *["--sizes", tmp_path / "sizes.json", "--recipe", tmp_path / "recipe.json"],
        ],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    row = json.loads((tmp_path / "out" / "sizes.json").read_text())["dot"]
    # by hand, of 4 features, and sets = 8, thin_features = 32, hidden = 64 as in common.json; (weights, biases)
    parts = {
        "shallow 1-4, 4-4 (3 x 3)": (9 * (4 + 16), 4 + 4),
        "block 4-4 (3 x 3), 8-4 (1 x 1)": (9 * 16 + 32, 4 + 4),
        "modulation 4-64-8": (256 + 512, 64 + 8),
        "fusion 4-4 (1 x 1), 4-4 (3 x 3)": (16 + 9 * 16, 4 + 4),
        "eight decoders 4-32": (8 * 128, 0),
        "mixture 5-64-64-8": (320 + 4096 + 512, 64 + 64 + 8),
        "refine 32-32, reconstruct 32-1 (3 x 3)": (9 * (1024 + 32), 32 + 1),
        "error scale 32-32, 32-1 (1 x 1)": (1024 + 32, 32 + 1),
    }
    assert row["parameters"] == sum(weights + biases for weights, biases in parts.values())
    assert np.isfinite(row["gain_db"])
    assert row["seconds_per_megapixel"] > 0
    assert (tmp_path / "out" / "sizes.png").stat().st_size > 3000
