# SPDX-License-Identifier: Apache-2.0
"""What is not ours is exactly what its authors published, with their licence."""

import hashlib

from thinslice.viewer.page import ROOT

NIIVUE = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # dist/niivue.umd.js of npm's 0.69.0


def test_niivue_is_the_published_file():
    (script,) = (ROOT / "vendor").glob("*.js")
    assert hashlib.sha256(script.read_bytes()).hexdigest() == NIIVUE
    assert "BSD 2-Clause License" in (ROOT / "vendor" / "LICENSE-niivue.txt").read_text()
