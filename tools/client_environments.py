# SPDX-License-Identifier: Apache-2.0
"""Make separate environments for MONAI Label and MONAI Deploy, whose requirements conflict with the project's pins.

Each environment has its own packages first and shares the large ones (above all PyTorch) with ``.venv``. So it takes
half a GB and a minute or two instead of 8 GB. ``make test-clients`` makes and uses them. Delete ``.venv-label`` and
``.venv-deploy`` to remove them.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.run_bundle import ROOT

__all__ = ["ENVIRONMENTS", "make"]

LABEL = [
    "monailabel==0.8.5", "pydicom<3", "pynetdicom<3", "dicomweb-client<0.60", "numpy==1.26.4",
    "pylibjpeg-openjpeg==2.3.0", "pyjpegls==1.4.0",
]  # fmt: skip
DEPLOY = ["monai-deploy-app-sdk==4.0.0", "holoscan-cu13==4.6.0", "highdicom==0.28.2", "SimpleITK==2.5.7"]
# (requirements, packages that this environment must have itself although .venv has them)
ENVIRONMENTS = {"label": (LABEL, "monailabel==0.8.5"), "deploy": (DEPLOY, "monai==1.6.1")}


def make(name: str) -> Path:
    """Make ``.venv-<name>`` unless it is ready; returns its ``bin`` folder."""
    folder = ROOT / f".venv-{name}"
    ready, python = folder / ".ready", folder / "bin" / "python"
    if ready.exists():
        return python.parent
    requirements, own = ENVIRONMENTS[name]
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = (folder / "lib").glob("python3.*/site-packages")
    (site / "_shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    subprocess.run([*pip, "setuptools<81", "wheel"], check=True)
    # sam2 builds from source against the installed PyTorch, not against another one
    subprocess.run([*pip, "--no-build-isolation", *requirements], check=True)
    subprocess.run([*pip, "--no-deps", "--ignore-installed", own], check=True)
    ready.touch()
    return python.parent


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ENVIRONMENTS:
        print(make(wanted))
