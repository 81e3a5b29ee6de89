# SPDX-License-Identifier: Apache-2.0
"""Peak memory of the whole inference command against the voxels that it writes.

Volumes of several sizes go through ``monai.bundle run``, each in a separate process, with a network of one channel.
The memory comes from the volumes, because ``window_pixels`` bounds the activations. A line through the peaks gives the
bytes per output voxel and the constant, which is mainly that of the libraries.

    python -m benchmarks.memory --sizes 384,384,72 512,512,96
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.machine import TINY_NETWORK, fit_line, parser_of, run_process, save_report, save_weights, table
from tools.run_bundle import bundle_command

SCALE_FACTOR = 4


def thick_scan(path: Path, shape: Sequence[int]) -> Path:
    """Write an int16 scan of waves with voxels of 1 x 1 x 4 mm, which is all tissue."""
    waves = [np.sin(np.arange(n) / 7.0) for n in shape]
    voxels = waves[0][:, None, None] + waves[1][None, :, None] + waves[2][None, None, :]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image((500 + 150 * voxels).astype(np.int16), np.diag([1.0, 1, 4, 1])), path)
    return path


def peak(shape: Sequence[int], folder: Path, **ids: Any) -> dict[str, float]:
    """Peak memory and seconds for one volume."""
    name = "x".join(map(str, shape))
    scan = thick_scan(folder / name / "scan.nii.gz", shape)
    weights = save_weights(folder / "model.pt", **TINY_NETWORK)
    ids = {"device": "cpu", "progress": False, "scale_factor": SCALE_FACTOR, **TINY_NETWORK, **ids}
    command = bundle_command(["inference.json"], dataset_dir=scan, output_dir=folder / name, ckpt_path=weights, **ids)
    process = run_process(command)
    voxels = SCALE_FACTOR * int(np.prod(shape))
    written = nib.load(folder / name / "scan_sr.nii.gz").shape
    if int(np.prod(written)) != voxels:
        raise RuntimeError(f"the result must have {voxels} voxels, got {written}")
    for path in (folder / name).iterdir():
        path.unlink()
    return {"voxels_out": voxels, "peak_bytes": process.peak_bytes, "seconds": process.seconds}


def measure(shapes: Sequence[Sequence[int]], **ids: Any) -> dict[str, Any]:
    """Measure all sizes, and fit the line."""
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = [{"shape_in": list(shape), **peak(shape, Path(folder), **ids)} for shape in shapes]
    slope, constant = fit_line([r["voxels_out"] for r in rows], [r["peak_bytes"] for r in rows])
    return {"volumes": rows, "bytes_per_output_voxel": slope, "constant_bytes": constant}


def main() -> None:
    """Command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", nargs="+", default=["320,320,48", "384,384,72", "448,448,96"])
    a = parser.parse_args()
    report = measure([tuple(map(int, size.split(","))) for size in a.sizes])
    print(
        table(
            ["scan", "Mvoxel out", "peak, MB", "seconds"],
            [
                [
                    " x ".join(map(str, r["shape_in"])),
                    f"{r['voxels_out'] / 1e6:.1f}",
                    f"{r['peak_bytes'] / 1e6:.0f}",
                    f"{r['seconds']:.0f}",
                ]
                for r in report["volumes"]
            ],
        )
    )
    print(
        f"{report['bytes_per_output_voxel']:.1f} bytes per output voxel + {report['constant_bytes'] / 1e6:.0f} MB; "
        f"512 x 512 x 200 in, 512 x 512 x 800 out: "
        f"{(report['constant_bytes'] + report['bytes_per_output_voxel'] * 512 * 512 * 800) / 1e9:.1f} GB"
    )
    save_report(report, a.output)


if __name__ == "__main__":
    main()
