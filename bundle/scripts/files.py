# SPDX-License-Identifier: Apache-2.0
"""Write files so that they are complete or absent, even if the process is killed while it writes."""

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
    """Write a file under a temporary name, and rename it when the block ends without an error.

    Args:
        path: the final file. Its folder is made, and an older file of that name stays until the new one is complete.

    Yields:
        The path to write to. It has the suffix of the final name, because writers choose the format by it.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".part-{os.getpid()}-{final.name}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # the content must reach the disk before the name
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text, completely or not at all; line ends are kept, and characters without UTF-8 are escaped."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_once(path: Path, text: str) -> str:
    """Write a file unless it exists, and return its content, which is the same for all simultaneous callers."""
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
    """Write JSON, completely or not at all."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
