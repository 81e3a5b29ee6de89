# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or absent, whatever stops the process while it writes them."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["sha256", "whole", "write_json", "write_once", "write_text"]


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file beside its final place, and rename it when the block ends without an error.

    Args:
        path: the final file; its folder is made, and an older file of that name stays until the new one is whole.

    Yields:
        The path to write to. It ends as the final name ends, since writers choose the format by that.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".part-{os.getpid()}-{final.name}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # the name must not reach the disk before the content
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text, whole or not at all; line ends are kept, and what UTF-8 cannot hold is escaped."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_once(path: Path, text: str) -> str:
    """Write a file unless there is one; returns what it then holds, the same to all who ask at the same time."""
    mine = path.with_name(f".part-{uuid.uuid4().hex}")
    write_text(mine, text)
    try:
        os.link(mine, path)
    except FileExistsError:
        return path.read_text(encoding="utf-8")
    finally:
        mine.unlink()
    return text


def write_json(path: str | os.PathLike, content: Any, indent: int | None = 4) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def sha256(path: Path) -> str:
    """Digest of a file's content, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
