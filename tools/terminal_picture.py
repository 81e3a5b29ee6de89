# SPDX-License-Identifier: Apache-2.0
"""Pictures of the terminal in README and docs, and a recording: what `thinslice` prints for the made-up patient.

Both commands run in a pseudo-terminal (Linux, macOS), and everything that they print is kept. Only the path of the
checkout and the name of the kernel's build are left out. `asciinema play docs/images/terminal.cast` plays the
recording.

    .venv/bin/python -m tools.terminal_picture
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pty
import re
import struct
import sys
import termios
import time
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text
from scripts.files import write_text

from tools.demo import phantom_scan
from tools.run_bundle import ROOT

__all__ = ["Event", "cast", "draw", "record", "shown"]

COLUMNS, ROWS = 100, 24
PICTURES = {"run": "thinslice demo-scan out/", "doctor": "thinslice doctor"}  # name of a picture: its command
SHAPE, SEED = (160, 192, 144), 7  # of the patient that `make demo` makes
PAUSE_S = 2.0  # between two commands of the recording
FRAME_S = 0.5  # events that follow within this time are joined, because a progress bar is redrawn very often
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich would load a font from the web

Event = tuple[float, str]


def record(command: str, folder: Path) -> list[Event]:
    """Run a command of `thinslice` in a pseudo-terminal.

    Args:
        command: words without quotes, the first of which is `thinslice`.
        folder: where it runs.

    Returns:
        Seconds since the start and text, of everything that the terminal got.

    Raises:
        RuntimeError: if the command fails.
    """
    started, events = time.monotonic(), []
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        paths = f"{ROOT}{os.pathsep}{ROOT / 'bundle'}"
        environment = os.environ | {"PYTHONPATH": paths, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        os.execve(sys.executable, [sys.executable, "-m", *command.split()], environment)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # this is how Linux signals that the other end is closed
            break
        if not data:
            break
        events.append((time.monotonic() - started, data.decode(errors="replace")))
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    if code:
        raise RuntimeError(f"{command} must end with 0, got {code}: {''.join(text for _, text in events)[-2000:]}")
    return [(seconds, _without_places(text)) for seconds, text in events]


def _without_places(text: str) -> str:
    release = platform.release()
    return text.replace(f"{ROOT}{os.sep}", "").replace(release, release.partition("-")[0])


def shown(events: list[Event]) -> list[str]:
    """Lines that stay on the screen: of a progress bar, the last state, or nothing if it was wiped."""
    lines = "".join(text for _, text in events).replace("\r\n", "\n").split("\n")
    last = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    return [Text.from_ansi(line).plain.rstrip() for line in last if Text.from_ansi(line).plain.strip()]


def draw(command: str, lines: list[str]) -> str:
    """SVG of a terminal in which a command has printed lines."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    for line in lines:
        console.print(Text(line))
    return FONT.sub("", console.export_svg(title="", unique_id="terminal"))


def cast(runs: dict[str, list[Event]]) -> str:
    """A recording in asciinema's second format: the commands, one after the other, with the time that each took."""
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "thinslice on a made-up patient"}
    rows: list[object] = [header]
    clock = 0.0
    for command, events in runs.items():
        rows.append([round(clock, 3), "o", f"\x1b[1;32m$\x1b[0m {command}\r\n"])
        for seconds, text in _thinned(events):
            rows.append([round(clock + seconds, 3), "o", text])
        clock += events[-1][0] + PAUSE_S
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def _thinned(events: list[Event]) -> list[Event]:
    """Join texts that follow each other within FRAME_S."""
    joined: list[Event] = []
    for seconds, text in events:
        if joined and seconds - joined[-1][0] < FRAME_S:
            joined[-1] = (joined[-1][0], joined[-1][1] + text)
        else:
            joined.append((seconds, text))
    return joined


def main() -> None:
    """Make the patient, run both commands, write the pictures and the recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder")
    arguments = parser.parse_args()
    runs: dict[str, list[Event]] = {}
    with TemporaryDirectory() as name:
        phantom_scan(Path(name) / "demo-scan", SHAPE, SEED)
        for picture, command in PICTURES.items():
            runs[command] = record(command, Path(name))
            lines = shown(runs[command])
            print("\n".join(lines))
            write_text(arguments.output / f"terminal_{picture}.svg", draw(command, lines))
    write_text(arguments.output / "terminal.cast", cast(runs))


if __name__ == "__main__":
    main()
