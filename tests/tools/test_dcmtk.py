# SPDX-License-Identifier: Apache-2.0
"""pynetdicom's programs have the names of dcmtk's and must not be taken for them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tools.dcmtk import dcmtk


def test_programs_beside_python_are_left_out(monkeypatch, tmp_path):
    real = tmp_path / "storescu"
    real.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{Path(sys.prefix) / 'bin'}{os.pathsep}{tmp_path}")
    assert dcmtk("storescu") == str(real)
    real.unlink()
    with pytest.raises(FileNotFoundError, match="apt-get install dcmtk"):
        dcmtk("storescu")
