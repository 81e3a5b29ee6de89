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
    # by hand: 1-4 and 4-4 of 3 x 3, a block of 4-4 (3 x 3) and 8-4 (1 x 1), 4-4 (1 x 1), 4-4, 4-16 and 4-1 of 3 x 3
    weights = 9 * (4 + 16) + 9 * 16 + 32 + 16 + 9 * (16 + 64 + 4)
    assert row["parameters"] == weights + (4 + 4 + 4 + 4 + 4 + 4 + 16 + 1)
    assert np.isfinite(row["gain_db"])
    assert row["seconds_per_megapixel"] > 0
    assert (tmp_path / "out" / "sizes.png").stat().st_size > 3000
