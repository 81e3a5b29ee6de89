# SPDX-License-Identifier: Apache-2.0
"""List the files of a folder tree: every entry is listed, and only regular files are ever opened."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..reasons import CaseError, Reason

__all__ = ["Stamp", "changed", "list_tree", "stamp_of", "walk"]

Stamp = tuple[int, int]


def stamp_of(status: os.stat_result) -> Stamp:
    """Size and time of modification in ns, at least one of which changes when a file is written to."""
    return status.st_size, status.st_mtime_ns


def list_tree(
    root: Path, stable_seconds: float = 0
) -> tuple[dict[Path, tuple[Stamp, CaseError | None]], list[tuple[Path, CaseError]]]:
    """List a folder tree in a fixed order.

    Args:
        root: the folder, which may itself be a link. No link inside it is followed: a link that stays in the tree names
            a file that is listed anyway, and one that leads out of it names a file that was not handed over.
        stable_seconds: how long to wait between two looks at every file's size and time; 0 looks once.

    Returns:
        Regular files with their size and time, and ``CHANGED`` if the two looks differ; and all other entries with the
        reason why they are not opened.
    """
    entries = dict(walk(Path(root)))
    if stable_seconds > 0:
        time.sleep(stable_seconds)
        before, entries = entries, dict(walk(Path(root)))
        entries |= {path: changed("it was removed") for path in before.keys() - entries.keys()}
        for path, found in entries.items():
            if isinstance(found, tuple) and before.get(path) != found:
                entries[path] = (found[0], changed("it is still being written"))
    files: dict[Path, tuple[Stamp, CaseError | None]] = {}
    others: list[tuple[Path, CaseError]] = []
    for path in sorted(entries):
        entry = entries[path]
        if isinstance(entry, CaseError):
            others.append((path, entry))
        else:
            files[path] = entry
    return files, others


def changed(how: str) -> CaseError:
    """The refusal of a file that changes while it is read."""
    return CaseError(Reason.CHANGED, f"a file must stay as it is while it is read, but {how}; run again later")


def walk(root: Path) -> Iterator[tuple[Path, tuple[Stamp, CaseError | None] | CaseError]]:
    """Yield every entry that is not a folder, and every folder that cannot be listed."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            message = f"a folder must be readable, got {type(error).__name__}; correct its permissions"
            yield folder, CaseError(Reason.UNREADABLE, message)
            continue
        for entry in entries:
            path = Path(entry.path)
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                yield path, changed("it was removed")
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)
            elif stat.S_ISREG(status.st_mode):
                yield path, (stamp_of(status), None)
            else:
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "a pipe, socket or device"
                message = f"an input must be a regular file, got {kind}; put the file itself there"
                yield path, CaseError(Reason.NOT_A_FILE, message)
