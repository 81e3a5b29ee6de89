# SPDX-License-Identifier: Apache-2.0
"""The work of ``thinslice serve``: run the node until it is stopped, show its rows, retry a series, or do a dry run."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .ledger import Ledger, State
from .rules import first_match, inference_ids, read_facts
from .settings import Settings

__all__ = ["dry_run", "retry", "serve", "status"]


def serve(listening: object, settings: Settings, root: Path, make: Callable[..., Any] | None = None) -> int:
    """Run the node until SIGTERM or SIGINT.

    Args:
        listening: a :class:`~.node.Listening`.
        settings: settings of the node.
        root: folder of the spool.
        make: function that makes the workers, for tests; see :class:`~.workshop.Workshop`.

    Returns:
        Exit code: 0 stopped, 2 wrong settings.
    """
    from scripts.batch.isolation import Team
    from scripts.batch.staging import BatchUsageError, locked

    from .node import Listening, Node
    from .settings import SettingsError

    assert isinstance(listening, Listening)
    _log()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        os.umask(0o077)
        with locked(root):
            node = Node(listening, settings, root, make or Team)
            stop.wait()
            node.stop()
    except (SettingsError, BatchUsageError) as error:
        print(f"thinslice: {error}", file=sys.stderr)
        return 2
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"thinslice: the node must get its ports and its spool, got {reason}", file=sys.stderr)
        return 2
    return 0


def _log() -> None:
    """Log the node's own lines to standard error, and none of libraries, which may quote headers."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("thinslice").setLevel(logging.INFO)
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore")


def status(root: Path) -> list[str]:
    """One line for each series that is under way or dead, and one with all counts."""
    ledger = Ledger(_database(root))
    lines = []
    for row in ledger.select("state NOT IN ('acknowledged', 'ignored')"):
        hours = (time.time() - row.changed_at) / 3600
        why = f"  {row.reason}: {row.message}" if row.reason else ""
        to = f"  to {row.destination}" if row.destination else ""
        lines.append(f"{row.series}  {row.state:9}  {hours:6.1f} h{to}{why}")
    lines.append(", ".join(f"{count} {state}" for state, count in ledger.counts().items()))
    ledger.close()
    return lines


def retry(root: Path, name: str) -> State | None:
    """Try a dead letter again.

    Args:
        root: folder of the spool; its node may be running.
        name: SeriesInstanceUID, or its hash as ``--status`` shows it.

    Returns:
        Its new state, or ``None`` if there is no such dead letter or its images have been removed.
    """
    from scripts.dicom.headers import hashed

    ledger = Ledger(_database(root))
    try:
        return ledger.retry(name if ledger.get(name) else hashed(name))
    finally:
        ledger.close()


def _database(root: Path) -> Path:
    from ..screen import fail

    file = root / "state.sqlite"
    if not file.is_file():
        fail(f"--spool must be a folder that a node has used, got {root}; correct the path")
    return file


def dry_run(settings: Settings, root: Path, folder: Path) -> list[str]:
    """Tell what would happen to the series of a folder tree; nothing is computed, written or sent.

    Args:
        settings: settings of the node.
        root: folder of the spool, which need not exist.
        folder: folder tree with DICOM files.

    Returns:
        One line per series.
    """
    from .workshop import batch_of, check_rules

    check_rules(settings)
    found = batch_of(settings, settings.rules[0], root).discover(folder)
    lines = []
    for series in found.series:
        where = os.path.relpath(os.path.commonpath([path.parent for path in series.files]), folder)
        facts = read_facts(series.files)
        rule = first_match(settings.rules, facts) if facts else None
        if rule is None:
            lines.append(f"{series.key} ({where}): ignored: no rule takes it")
            continue
        ids = ", ".join(f"{name} {value}" for name, value in inference_ids(settings.rules[rule]).items())
        to = settings.destination_of(settings.rules[rule])
        lines.append(f"{series.key} ({where}): taken by rule {rule + 1}{f' ({ids})' if ids else ''}, sent to {to}")
    for refused in found.refused:
        where = os.path.relpath(os.path.commonpath([path.parent for path in refused.files]), folder)
        lines.append(f"{refused.key} ({where}): no result: {refused.error.reason}: {refused.error.message}")
    if found.files:
        lines.append(f"{len(found.files)} files belong to no series that could be taken")
    return sorted(lines)
