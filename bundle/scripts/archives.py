# SPDX-License-Identifier: Apache-2.0
"""Unpack archives of scans safely: nothing is written outside the given folder, and size and number are limited."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from .reasons import CaseError, Reason

__all__ = ["ARCHIVE_SUFFIXES", "UNPACKED", "is_archive", "unpack", "unpack_all"]

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
CHUNK = 2**20
UNPACKED = CaseError(Reason.NOT_AN_IMAGE, "the contents of this archive are listed separately; nothing to do")


def is_archive(path: Path) -> bool:
    """Whether the name of a file is that of an archive that :func:`unpack` can read."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(path: Path, folder: Path, max_files: int = 200_000, max_bytes: int = 2**36) -> int:
    """Unpack the regular files of an archive; archives inside it stay as they are.

    Args:
        path: a zip or tar file.
        folder: an empty folder. After an error, the caller must remove what was unpacked before it.
        max_files: the most files.
        max_bytes: the most bytes in all, counted as they are written, not as the archive states them. Half of the free
            space is a limit too.

    Returns:
        Number of files that were unpacked.

    Raises:
        CaseError: ``ARCHIVE`` for a name that leads out of the folder, a link, a device, a password or two files of one
            name; ``TOO_LARGE``; ``TRUNCATED`` for a damaged archive.
    """
    left = min(max_bytes, shutil.disk_usage(folder).free // 2)
    count = 0
    try:
        for name, source in _members(path):
            target = folder / _safe(name)
            count += 1
            if count > max_files:
                raise CaseError(
                    Reason.TOO_LARGE, f"an archive must hold at most {max_files} files, got more; unpack it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("xb") as file:
                while chunk := source.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise CaseError(
                            Reason.TOO_LARGE, "an archive must unpack to less, got too many bytes; unpack it"
                        )
                    file.write(chunk)
    except CaseError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise CaseError(Reason.ARCHIVE, "files of an archive must have names of their own, got one twice") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, NotImplementedError) as error:
        message = f"an archive must be whole, got {type(error).__name__}; copy it again"
        raise CaseError(Reason.TRUNCATED, message) from error
    return count


def unpack_all(archives: Iterable[Path], root: Path, folder: Path) -> dict[Path, CaseError]:
    """Unpack archives of a tree, each into a folder that lies below ``folder`` as the archive lies below ``root``.

    Unpacked files have the time of modification of their archive, so that the same archive always gives the same files.

    Args:
        archives: regular files for which :func:`is_archive` holds.
        root: root of the tree.
        folder: folder for the unpacked files.

    Returns:
        :data:`UNPACKED` for each archive, or the reason why it was not unpacked.
    """
    outcomes = {}
    for path in archives:
        target = folder / path.relative_to(root)
        try:
            target.mkdir(parents=True)
            unpack(path, target)
            times = (path.stat().st_mtime_ns,) * 2
            for file in target.rglob("*"):
                os.utime(file, ns=times)
        except CaseError as error:
            outcomes[path] = CaseError(error.reason, error.message)  # without the frames of its traceback
        except OSError as error:  # the archive was removed, or two of them have the same name
            message = f"an archive must be readable, got {type(error).__name__}; unpack it"
            outcomes[path] = CaseError(Reason.ARCHIVE, message)
        else:
            outcomes[path] = UNPACKED
            continue
        shutil.rmtree(target, ignore_errors=True)
    return outcomes


def _safe(name: str) -> PurePosixPath:
    """Check that a path stays below the folder that it is joined to, and return it.

    Raises:
        CaseError: ``ARCHIVE``.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or any(c in name for c in "\\:\0"):
        raise CaseError(Reason.ARCHIVE, "files of an archive must stay in its folder, got a name that leaves it")
    return path


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each regular file.

    Raises:
        CaseError: ``ARCHIVE`` for anything that is neither a file nor a folder, and for encrypted files.
    """
    link = CaseError(Reason.ARCHIVE, "an archive must hold regular files only, got a link or a device; unpack it")
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    raise link
                if info.flag_bits & 1:
                    raise CaseError(Reason.ARCHIVE, "an archive must be open, got one with a password; unpack it")
                yield info.filename, archive.open(info)
        return
    with tarfile.open(path) as tape:
        for member in tape:
            if member.isdir():
                continue
            content = tape.extractfile(member) if member.isreg() else None
            if content is None:
                raise link
            yield member.name, content
