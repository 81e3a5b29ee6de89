# SPDX-License-Identifier: Apache-2.0
"""Put results in place: they are written to a staging folder first, and then renamed once.

``output_dir`` holds one folder per finished series, named by its key, and nothing of a series that is not finished.
Names that begin with :data:`STAGING` are left over from a run that was killed; the next run removes them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["STAGING", "BatchUsageError", "check_apart", "check_space", "locked", "publish", "sweep", "sync"]

STAGING = ".staging"
LOCK = ".lock"


class BatchUsageError(Exception):
    """The run cannot begin because of a wrong argument. Exit code 2."""


def check_apart(dataset_dir: Path, output_dir: Path) -> None:
    """Demand that nothing is ever written into or beside the input.

    Raises:
        BatchUsageError: if there is no input folder, or one folder holds the other.
    """
    if not dataset_dir.is_dir():
        raise BatchUsageError(f"dataset_dir must be a folder, got {dataset_dir}; correct the path")
    source, target = dataset_dir.resolve(), output_dir.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise BatchUsageError(
            f"output_dir must lie apart from dataset_dir, got {output_dir} and {dataset_dir}; choose another folder"
        )


def check_space(output_dir: Path, needed_bytes: int) -> None:
    """Demand enough free space before the first series.

    Raises:
        BatchUsageError: if there is less.
    """
    free = shutil.disk_usage(output_dir).free
    if free < needed_bytes:
        raise BatchUsageError(
            f"output_dir must have about {needed_bytes / 2**30:.2f} GiB of free space, got {free / 2**30:.2f} GiB; "
            "free some, or lower free_space_factor"
        )


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Keep other runs out of a folder. The lock ends with the process, however the process ends.

    Raises:
        BatchUsageError: if another run holds it, or the folder cannot be written to.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BatchUsageError(f"output_dir must be writable, got {error.strerror}; choose another folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BatchUsageError(f"output_dir must be free, but another run uses {output_dir}; wait for it") from error
        yield
    finally:
        os.close(descriptor)


def sweep(output_dir: Path) -> None:
    """Remove what a killed run has left behind.

    Its workers may still run on another machine. Once their folder has another name, they can put nothing in place.
    """
    for rubbish in output_dir.glob(f"{STAGING}*"):
        swept = output_dir / f"{STAGING}-swept-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            os.rename(rubbish, swept)
        shutil.rmtree(swept, ignore_errors=True)


def sync(folder: Path) -> None:
    """Flush a folder and all its files to the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish(stage: Path, final: Path) -> None:
    """Put a finished, synced folder in place, instead of an older one if there is one.

    Both must lie in one file system. If several processes do this at the same time, one wins, with a complete folder.
    """
    old = stage.with_name(f"{stage.name}-old")
    while stage.exists():
        with suppress(FileNotFoundError):
            os.rename(final, old)
        try:
            os.rename(stage, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another was faster: move its folder aside, too
                raise
        shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
