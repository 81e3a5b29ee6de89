# SPDX-License-Identifier: Apache-2.0
"""A file is whole or absent, and an older one stays until the new one is whole."""

import hashlib
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scripts.files import sha256, whole, write_json, write_text

from tests.conftest import BUNDLE


def test_the_new_file_replaces_the_old_one_when_the_block_ends(tmp_path):
    path = tmp_path / "new folder" / "a.nii.gz"
    for value in (1, 2):
        with whole(path) as part:
            nib.save(nib.Nifti1Image(np.full((2, 2, 2), value, np.int16), np.eye(4)), part)
            assert path.exists() == (value == 2)
    assert nib.load(path).get_fdata().max() == 2
    assert list(path.parent.iterdir()) == [path]


def write_half(path):
    with whole(path) as part:
        part.write_text("half of the n")
        raise RuntimeError("disk full")


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk full"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from scripts.files import whole\n"
        "with whole(sys.argv[1]) as part:\n"
        "    part.write_text('half of the n'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, path], cwd=BUNDLE, check=False)
    assert result.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_text_that_utf_8_cannot_hold_is_escaped(tmp_path):
    write_text(tmp_path / "a.txt", "é\r\n\udcff")  # a file name of other bytes, as Python gives it
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\n\\udcff"


def test_json_ends_with_a_line_end(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1]}, indent=2)
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
