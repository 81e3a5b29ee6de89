# SPDX-License-Identifier: Apache-2.0
"""The faults and the equivalent mutants that tools/mutate.py names are those of the present code."""

import pytest

from tests.conftest import ROOT
from tools.mutate import EQUIVALENT, FAULTS, TESTS


@pytest.mark.parametrize("fault", FAULTS)
def test_the_text_of_a_fault_stands_once_in_its_file(fault):
    file, old, new = FAULTS[fault]
    assert (ROOT / file).read_text().count(old) == 1
    assert old != new


def test_the_line_of_an_equivalent_mutant_stands_in_a_file():
    source = "\n".join((ROOT / file).read_text() for file in TESTS)
    gone = [part for part, _ in EQUIVALENT if part not in source]
    assert not gone
