# SPDX-License-Identifier: Apache-2.0
"""What reaches the screen, and what the log; settings; and that a file is a command."""

import subprocess
import sys
import textwrap

import pytest
import typer

from tests.conftest import ROOT
from thinslice.screen import CommandError
from thinslice.settings import parse_settings

NOISE = """
    import ctypes, logging, os, sys, warnings
    from pathlib import Path
    from thinslice.screen import Screen
    with Screen.quiet(Path(sys.argv[1])) as screen:
        print("noise from python")
        sys.stderr.write("noise on stderr\\n")
        os.write(1, b"noise from a library in C\\n")
        warnings.warn("noise of a warning")
        logging.getLogger("library").warning("noise of a logger")
        logging.getLogger("pydicom").warning("SECRET^NAME")
        screen.say("result")
        screen.warn("fault")
    print("after")
"""


def test_only_our_own_lines_reach_the_screen(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NOISE), tmp_path / "log.txt"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout == "result\nafter\n"
    assert result.stderr == "fault\n"
    log = (tmp_path / "log.txt").read_text()
    for source in ("from python", "on stderr", "from a library in C", "of a warning", "of a logger"):
        assert f"noise {source}" in log
    assert "SECRET" not in log


def test_values_mean_what_they_mean_to_monai_bundle_run():
    items = ["a=1", "b=0.5", "c=true", "d=null", "e=text with spaces", "f=[1, 2]", "g::h=False", "i=x=y"]
    expected = {"a": 1, "b": 0.5, "c": True, "d": None, "e": "text with spaces", "f": [1, 2], "g::h": False, "i": "x=y"}
    assert parse_settings(items) == expected


@pytest.mark.parametrize("item", ["alone", "=value"])
def test_a_setting_without_a_name_or_a_value_ends_the_command(item):
    with pytest.raises(CommandError, match="ID=VALUE") as error:
        parse_settings([item])
    assert error.value.code == 2


def test_every_file_in_commands_is_a_command():
    from thinslice.__main__ import app

    names = {path.stem for path in (ROOT / "thinslice" / "commands").glob("*.py")} - {"__init__"}
    group = typer.main.get_command(app)
    assert set(group.commands) == names
    assert all(command.get_short_help_str() for command in group.commands.values())
