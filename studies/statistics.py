# SPDX-License-Identifier: Apache-2.0
"""Compare two rows over the same cases: paired t-test and bootstrap interval."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["compare_paired"]

FEWEST_CASES = 6  # with fewer cases, a two-sided signed-rank test cannot reach 0.05, whatever the data


def compare_paired(row: Sequence[float], reference: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean difference ``reference - row`` over paired cases.

    Args:
        row: one score per case.
        reference: the same score of the same cases.
        seed: seed of the bootstrap.

    Returns:
        ``n``, ``mean_difference``, ``p_value`` (paired t-test, two-sided; ``None`` for one case or no spread),
        ``interval_95`` (percentile bootstrap of the mean over the cases; ``None`` for one case), and ``warning``
        (``None``, unless n is too small for a test).

    Raises:
        ValueError: if the two are not equally long, or empty.
    """
    if len(row) != len(reference) or not len(row):
        raise ValueError(
            f"both rows must have the same cases, got {len(row)} and {len(reference)}; score all cases first"
        )
    difference = np.asarray(reference, float) - np.asarray(row, float)
    n = len(difference)
    result: dict[str, Any] = {"n": n, "mean_difference": float(difference.mean())}
    result["p_value"] = result["interval_95"] = None
    if n > 1 and np.ptp(difference) > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result["p_value"] = float(stats.ttest_rel(reference, row).pvalue)
        interval = stats.bootstrap(
            (difference,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(seed)
        ).confidence_interval
        result["interval_95"] = [float(interval.low), float(interval.high)]
    too_few = n < FEWEST_CASES
    result["warning"] = (
        f"n = {n}: too few cases for a test to mean anything, at least {FEWEST_CASES} are needed" if too_few else None
    )
    return result
