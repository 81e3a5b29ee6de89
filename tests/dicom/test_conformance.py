# SPDX-License-Identifier: Apache-2.0
"""The conformance statement lists what the writer takes over, no more and no less."""

import re

from scripts.dicom.attributes import ACQUISITION, LOSSY, PATIENT_AND_STUDY

from tests.conftest import ROOT


def test_the_statement_lists_the_whitelist():
    text = (ROOT / "docs" / "dicom_conformance.md").read_text()
    listed = re.findall(r"^\| \([0-9A-F]{4},[0-9A-F]{4}\) \| (\w+) \|$", text, re.M)
    assert listed == [*PATIENT_AND_STUDY, *ACQUISITION, *LOSSY]
