# SPDX-License-Identifier: Apache-2.0
"""Where the limits of the self-check come from: its numbers on thick scans as they are, and on the same scans spoilt.

Writes ``quality_limits.json``, and prints the range of every number over the scans, for each fault.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scripts.data.cases import find_cases
from scripts.files import write_json
from scripts.geometry import Orientation, find_thick_axis
from scripts.intensity import mr_intensity_range
from scripts.nifti import read_nifti
from scripts.quality.numbers import measure

from studies.crop import middle
from studies.failure_cases import (
    ghosting,
    heavy_noise,
    interpolated,
    odd_even,
    one_darker,
    slice_motion,
    spikes,
    zero_filled,
)


def faults(seed: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is done to the thick slices ``(H1, H2, n)``, by name."""
    rng = np.random.default_rng(seed)
    return {
        "clean": lambda thick: thick,
        "motion of 1 pixel": lambda thick: slice_motion(thick, rng, 1),
        "motion of up to 2 pixels": lambda thick: slice_motion(thick, rng, 2),
        "odd slices a tenth darker": lambda thick: odd_even(thick, 0.1),
        "one slice a fifth darker": lambda thick: one_darker(thick, 0.2),
        "one slice three tenths darker": lambda thick: one_darker(thick, 0.3),
        "one slice half as bright": lambda thick: one_darker(thick, 0.5),
        "ghosts of a twentieth": lambda thick: ghosting(thick, thick.shape[1] // 4, 0.05),
        "ghosts of a fifth": lambda thick: ghosting(thick, thick.shape[1] // 6, 0.2),
        "interpolated": interpolated,
        "zero-filled": zero_filled,
        "noise of a tenth": lambda thick: heavy_noise(thick, rng, 0.1),
        "spikes of a thirtieth": lambda thick: spikes(thick, rng, 1 / 30),
        "spikes of a tenth": lambda thick: spikes(thick, rng, 0.1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="thick MR scans (NIfTI) of the training data")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=192, help="only the middle so many pixels of the slices")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results: dict[str, dict[str, dict]] = {}
    for item in find_cases(arguments.data).items:
        source = read_nifti(Path(str(item["image"])))
        orientation = Orientation.of(source.affine_ras, find_thick_axis(source.affine_ras))
        thick = orientation.apply(torch.from_numpy(np.float32(source.array))[None])[0].numpy()
        window = middle(thick.shape[:2], arguments.size)
        for name, spoil in faults(arguments.seed).items():
            spoilt = torch.from_numpy(np.float32(spoil(thick[window])))
            unit = mr_intensity_range(spoilt, 0.5, 99.5).to_unit(spoilt)
            results.setdefault(name, {})[str(item["case"])] = measure(unit)
    write_json(arguments.output / "quality_limits.json", results)
    for name, scans in results.items():
        ranges = []
        for number in next(iter(scans.values())):
            values = [scan[number] for scan in scans.values() if scan[number] is not None]
            ranges.append(f"{number} {min(values):.3f} to {max(values):.3f}" if values else f"{number} unknown")
        print(f"{name}: {'; '.join(ranges)}")


if __name__ == "__main__":
    main()
