# SPDX-License-Identifier: Apache-2.0
"""Find the programs of dcmtk."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def dcmtk(program: str) -> str:
    """Path of one of dcmtk's programs.

    pynetdicom installs programs with the same names but other options beside Python. They come first in the path of an
    activated environment, so that folder is left out.

    Raises:
        FileNotFoundError: if dcmtk is not installed.
    """
    own = Path(sys.prefix, "bin").resolve()
    folders = [name for name in os.get_exec_path() if Path(name).resolve() != own]
    path = shutil.which(program, path=os.pathsep.join(folders))
    if path is None:
        raise FileNotFoundError(f"{program} must be there; apt-get install dcmtk")
    return path
