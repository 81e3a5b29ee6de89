# SPDX-License-Identifier: Apache-2.0
"""Check a derived series against its source: ``python -m tools.check_series DERIVED --source SOURCE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scripts.dicom.checking import check_series


def main() -> None:
    """Print the findings; exit code 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("derived", type=Path, help="folder of the derived series")
    parser.add_argument("--source", type=Path, help="folder of the series it was derived from")
    parser.add_argument("--nifti", type=Path, help="NIfTI file that holds the same voxels")
    arguments = parser.parse_args()
    image = None if arguments.nifti is None else nib.load(arguments.nifti)
    findings = check_series(
        sorted(arguments.derived.glob("*.dcm")),
        sorted(p for p in arguments.source.rglob("*") if p.is_file()) if arguments.source else (),
        None if image is None else np.asarray(image.affine),
        None if image is None else np.asarray(image.dataobj),
    )
    print("\n".join(findings) or "nothing found")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
