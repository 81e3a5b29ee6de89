# SPDX-License-Identifier: Apache-2.0
"""Where ``gain_exponent`` comes from: the power with which the self-check predicts the true gain best.

Reads what ``studies.calibrate`` has written with ``--set gain_exponent=0``, which gives the gain on the scan's own
slices, and for the same volumes with ``--set gain_exponent=1``. The prediction with any exponent follows from both.
The volumes must be of the training data, so that those that test the self-check take no part in the choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["EXPONENTS", "predictions_db"]

EXPONENTS = np.arange(101) / 100


def predictions_db(at_zero_db: Sequence[float], at_one_db: Sequence[float]) -> np.ndarray:
    """Predicted gains with every one of ``EXPONENTS``.

    The lead in mean squared error, ``10^(gain / 10) - 1``, is taken to grow as a power of a ratio that the self-check
    measures (see :meth:`scripts.quality.judgement.Judgement.gain_over_cubic_db`). The leads at 0 and 1 tell that ratio;
    where interpolation leads, it is 1.

    Args:
        at_zero_db: predicted gain of each volume with the exponent 0; none is 0 dB.
        at_one_db: the same with the exponent 1.

    Returns:
        ``(exponents, volumes)``, dB.
    """
    lead, lead_at_one = (10 ** (np.asarray(gains) / 10) - 1 for gains in (at_zero_db, at_one_db))
    return 10 * np.log10(1 + lead * (lead_at_one / lead) ** EXPONENTS[:, None])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-zero", type=Path, nargs="+", required=True, help="folders of studies.calibrate")
    parser.add_argument("--at-one", type=Path, nargs="+", required=True, help="the same volumes, in the same order")
    arguments = parser.parse_args()
    at_zero, at_one = (
        [json.loads((folder / "calibration.json").read_text(encoding="utf-8")) for folder in folders]
        for folders in (arguments.at_zero, arguments.at_one)
    )
    pairs = [(a[name], b[name]) for a, b in zip(at_zero, at_one, strict=True) for name in a | b]
    true = [zero["gain_db"] for zero, _ in pairs]
    predicted = predictions_db(*np.transpose([[v["predicted_gain_db"] for v in pair] for pair in pairs]))
    differences = np.sqrt(np.square(predicted - true).mean(axis=1))
    best = int(differences.argmin())
    for index in sorted({*range(0, len(EXPONENTS), 5), best}):
        print(
            f"exponent {EXPONENTS[index]:.2f}: predicted minus true gain over {len(pairs)} volumes: root mean square "
            f"{differences[index]:.3f} dB, mean {(predicted[index] - true).mean():+.3f}, "
            f"largest {np.abs(predicted[index] - true).max():.3f}{'; the best' if index == best else ''}"
        )


if __name__ == "__main__":
    main()
