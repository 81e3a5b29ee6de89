# SPDX-License-Identifier: Apache-2.0
"""The gain that a study holds against the self-check, by hand."""

import numpy as np
import pytest

from studies.cubic import gain_in_tissue_db


def test_only_errors_in_the_tissue_count():
    truth = np.full((8, 8, 12), 100.0)
    truth[:, :4] = 5  # air: below a tenth of the range
    result, reference = truth + 1, truth + 2  # half the error, a quarter of its square
    result[:, :4] += 50
    assert gain_in_tissue_db(result, reference, truth, truth[..., ::3] - 5) == pytest.approx(10 * np.log10(4), abs=1e-6)
