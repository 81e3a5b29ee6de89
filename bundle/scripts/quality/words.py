# SPDX-License-Identifier: Apache-2.0
"""The findings of the self-check in sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["faults_in_words"]

WORDS = {
    "gain_over_cubic_db": "By its own slices, this scan gains nothing over cubic interpolation",
    "gain_over_consistent_cubic_db": "By its own slices, cubic interpolation with data consistency is nearer the truth",
    "noise_sigma": "The scan is noisier than those that gain from the method",
    "detail_db": "The slices hold no fine detail; they were probably interpolated or zero-filled",
    "ghosting": "There are copies of the tissue in the air (ghosts), as motion causes them",
    "spikes_db": "There are stripes over a slice (spikes in its raw data)",
    "motion_pixels": "Neighbouring slices are shifted against each other, as if the patient had moved between them",
    "odd_even_step": "Odd and even slices differ in brightness",
    "largest_step": "One slice is much brighter or darker than its neighbours",
}


def faults_in_words(quality: Mapping[str, Any] | None) -> list[str]:
    """One sentence for each flag, with the number and its limit; one if no gain is predicted; one if cubic is written.

    Args:
        quality: content of ``<case>_quality.json``, or ``None`` without a self-check.
    """
    if quality is None:
        return []
    sentences = []
    for name in quality["flags"]:
        number = quality["numbers"][name]
        limit = next(f"{key.replace('_', ' ')} {number[key]:g}" for key in ("at_most", "at_least") if key in number)
        sentences.append(f"{WORDS[name]}: {name} is {number['value']:.3g}, expected {limit}.")
    if quality["withheld"]:
        sentences.append(
            "The gain over cubic interpolation is not predicted, because such faults mislead the prediction."
        )
    if quality["result"] == "cubic":
        sentences.append("The result is cubic interpolation with data consistency, not that of the network.")
    return sentences
