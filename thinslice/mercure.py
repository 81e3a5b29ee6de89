# SPDX-License-Identifier: Apache-2.0
"""Run as a processing module of mercure, a DICOM router, with its folders, file names and settings.

mercure starts a container with DICOM files and ``task.json`` in ``MERCURE_IN_DIR``, and takes the files in
``MERCURE_OUT_DIR`` if the container ends with code 0. The name of a file begins with the UID of its series and ``#``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from .archive import run_batch
from .screen import fail

__all__ = ["process", "read_settings"]

TASK = "task.json"
# settings of the module and the types of their values; ids of the configs are never accepted from a network
SETTINGS: dict[str, tuple[type, ...]] = {"spacing": (int, float, str), "exact": (bool,), "device": (str,)}
IDS = {"spacing": "target_spacing_mm", "device": "device"}  # of inference.json


def read_settings(task: Path) -> dict[str, Any]:
    """Read and check the settings of the module: ``process.settings`` of ``task.json``.

    Args:
        task: the file; if it does not exist or has no settings, all defaults apply.

    Returns:
        ``spacing`` (mm, or ``isotropic``), ``exact`` and ``device``, as far as they are set.
    """
    if not task.is_file():
        return {}
    try:
        content = json.loads(task.read_text(encoding="utf-8"))
        found = dict((content.get("process") or {}).get("settings") or {})
    except (ValueError, AttributeError, TypeError):
        fail(f"{TASK} must be JSON with an object process.settings; correct the module's settings in mercure")
    for name, value in found.items():
        if name not in SETTINGS:
            fail(f"the module's settings must be among {', '.join(SETTINGS)}, got {name!r}; correct them in mercure")
        if not isinstance(value, SETTINGS[name]) or (isinstance(value, bool) and bool not in SETTINGS[name]):
            fail(f"the module's setting {name} is of a wrong type, got {value!r}; correct it in mercure")
    if isinstance(found.get("spacing"), str) and found["spacing"] != "isotropic":
        fail(f"the module's setting spacing must be a number or 'isotropic', got {found['spacing']!r}")
    return found


def process(source: Path, output: Path) -> int:
    """Run the batch on one task of mercure.

    Returns:
        Exit code: 0 if at least one series has a result, else that of the batch. mercure keeps a task that has failed.
    """
    for name, folder in (("MERCURE_IN_DIR", source), ("MERCURE_OUT_DIR", output)):
        if not folder.is_dir():
            fail(f"{name} must be a folder, got {folder}")
    settings = read_settings(source / TASK)
    ids = {f"inference::{new}": settings[old] for old, new in IDS.items() if old in settings}
    with tempfile.TemporaryDirectory(prefix="thinslice-") as name:
        work = Path(name)
        code = run_batch(source, work, ids, bool(settings.get("exact")), verbose=False)
        files = sorted(work.glob("*/dicom/*.dcm"))
        for file in files:
            _hand_over(file, output)
    return 0 if files else code


def _hand_over(file: Path, output: Path) -> None:
    """Copy a file under the name that mercure expects; the name appears when the file is complete."""
    from pydicom import dcmread
    from scripts.files import whole

    header = dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
    with whole(output / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm") as part:
        part.write_bytes(file.read_bytes())
