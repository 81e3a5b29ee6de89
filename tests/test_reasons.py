# SPDX-License-Identifier: Apache-2.0
"""The documented codes are the codes, and an error survives the way between processes."""

import pickle
import re

from scripts.reasons import CaseError, Reason

from tests.conftest import ROOT


def test_the_page_lists_every_code_once():
    text = (ROOT / "docs" / "reasons.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == [reason.value for reason in Reason]
    assert all(reason.name == reason.value for reason in Reason)


def test_an_error_keeps_code_and_message_between_processes():
    error = pickle.loads(pickle.dumps(CaseError(Reason.GAP, "a slice is missing")))
    assert (error.reason, error.message, str(error)) == (Reason.GAP, "a slice is missing", "GAP: a slice is missing")
