# SPDX-License-Identifier: Apache-2.0
"""The fit of the gain's exponent, against the self-check's own prediction and a known answer."""

import json

import numpy as np
import pytest
import torch
from scripts.quality.judgement import Changes, Judgement

from studies.gain_exponent import EXPONENTS, main, predictions_db


@pytest.mark.parametrize("network", [0.1, 0.3])  # better and worse than cubic interpolation
def test_predictions_are_those_of_the_self_check(network):
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (level * torch.randn(500, generator=draw) for level in (network, 0.2))
    judgement = Judgement(ours, theirs, theirs, None)

    def at(exponent):
        return judgement.gain_over_cubic_db(Changes(0.3, 0.3), exponent)

    expected = [at(float(exponent)) for exponent in EXPONENTS]
    np.testing.assert_allclose(predictions_db([at(0)], [at(1)])[:, 0], expected, atol=1e-6)


def test_the_exponent_that_made_the_gains_is_found(tmp_path, monkeypatch, capsys):
    leads, ratios = np.array([0.2, 0.4, 0.1]), np.array([2.0, 3.0, 1.5])
    for folder, exponent in (("zero", 0.0), ("one", 1.0)):
        volumes = {
            str(number): {
                "gain_db": 10 * np.log10(1 + lead * ratio**0.42),
                "predicted_gain_db": 10 * np.log10(1 + lead * ratio**exponent),
            }
            for number, (lead, ratio) in enumerate(zip(leads, ratios, strict=True))
        }
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "calibration.json").write_text(json.dumps(volumes))
    words = ["gain_exponent", "--at-zero", str(tmp_path / "zero"), "--at-one", str(tmp_path / "one")]
    monkeypatch.setattr("sys.argv", words)
    main()
    best = [line for line in capsys.readouterr().out.splitlines() if line.endswith("the best")]
    assert len(best) == 1
    assert best[0].startswith("exponent 0.42: predicted minus true gain over 3 volumes: root mean square 0.000 dB")
