# SPDX-License-Identifier: Apache-2.0
"""An index of a folder tree of any size in an SQLite file: headers are read in parallel, and again only after changes.

The rules are those of :mod:`.discovery`. The memory used does not grow with the tree. The file holds paths and the
facts of :class:`~.headers.Header`, and only its owner can read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import groupby, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..archives import is_archive, unpack_all
from ..formats import is_volume_file
from ..orphans import end_with_starter
from ..reasons import CaseError, Reason
from .discovery import (
    DAMAGED,
    LeftOutFile,
    RefusedSeries,
    SeriesCandidate,
    look_at,
    number_derived,
    series_volumes,
    sort_copies,
)
from .headers import Header, hashed
from .kinds import IMAGE_CLASS, is_ours
from .tree import Stamp, changed, walk

__all__ = ["Index", "index_tree", "pack", "unpack"]

FILES_PER_JOB, SERIES_PER_JOB = 200, 20
COMMIT_SECONDS = 2.0
UNPACKED = ".unpacked"
NEVER = -1  # a time of modification that no file has, so that the next look reads the file again
VOLUME = CaseError(Reason.NOT_AN_IMAGE, "an input must be DICOM, got a file such as NIfTI; run inference.json on it")
# a folder is dirty inside one look only; a series stays dirty until its volumes are known
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE folders (id INTEGER PRIMARY KEY, path BLOB UNIQUE, look INT);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, folder INT, name BLOB, size INT, modified INT, unread INT, series TEXT, instance TEXT,
    study TEXT, number INT, copy INT DEFAULT 0, owner TEXT, reason TEXT, message TEXT, UNIQUE (folder, name)
);
CREATE INDEX of_series ON files (series);
CREATE INDEX unread ON files (id) WHERE unread;
CREATE TABLE headers (file INTEGER PRIMARY KEY, content BLOB);
CREATE TABLE dirty (series TEXT PRIMARY KEY);
CREATE TABLE circumstances (series TEXT PRIMARY KEY, content TEXT);
CREATE TABLE volumes (key TEXT PRIMARY KEY, series TEXT, refused INT, bytes INT, content BLOB);
CREATE INDEX volumes_of_series ON volumes (series);
"""
T = TypeVar("T")


def index_tree(
    root: Path,
    path: Path,
    modality: str = "MR",
    stable_seconds: float = 0,
    strict: bool = False,
    min_slices: int = 3,
    max_voxels: int = 2**30,
    processes: int | None = None,
) -> Index:
    """Find the series of a folder tree, as :func:`~.discovery.discover` does, and keep the findings in a file.

    Zip and tar archives of the tree are unpacked beside the SQLite file, until the index is closed.

    Args:
        root: see :func:`~.discovery.discover`.
        path: the SQLite file. An index that an earlier look left there is brought up to date. It is made anew if it
            belongs to another tree, other settings or another version of this package.
        modality: see :func:`~.discovery.discover`.
        stable_seconds: see :func:`~.discovery.discover`.
        strict: see :func:`~.discovery.discover`.
        min_slices: see :func:`~.discovery.discover`.
        max_voxels: see :func:`~.discovery.discover`.
        processes: number of processes that read headers; ``None`` takes one per processor.

    Raises:
        ValueError: if ``modality`` is unknown.
    """
    if modality not in IMAGE_CLASS:
        raise ValueError(f"modality must be one of {sorted(IMAGE_CLASS)}, got {modality!r}; correct the id")
    rules = {"strict": strict, "min_slices": min_slices, "max_voxels": max_voxels}
    index = Index(path, _fingerprint(str(root.resolve()), modality, rules), root)
    index.update(modality, stable_seconds, rules, processes or os.cpu_count() or 1)
    return index


class Index:
    """The index of a tree.

    Args:
        path: the SQLite file.
        fingerprint: digest of settings and code. An index with another fingerprint is made anew.
        root: the folder.
    """

    def __init__(self, path: Path, fingerprint: str, root: Path) -> None:
        self.root, self.unpacked = root, path.with_name(UNPACKED)
        shutil.rmtree(self.unpacked, ignore_errors=True)  # left by a run that was killed
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self.db = sqlite3.connect(path)
        if self._fact("fingerprint") != fingerprint:
            self.db.close()
            path.unlink()
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self.db = sqlite3.connect(path)
            self.db.executescript(SCHEMA)
            self.db.execute("INSERT INTO facts VALUES ('fingerprint', ?)", (fingerprint,))
            self.db.commit()
        self.committed = time.monotonic()

    def _fact(self, name: str) -> str | None:
        try:
            row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        return row[0] if row else None

    def close(self) -> None:
        """Commit the index, close its file and remove unpacked archives."""
        self.db.commit()
        self.db.close()
        shutil.rmtree(self.unpacked, ignore_errors=True)

    # --- what is known

    def count(self) -> int:
        """How many volumes can be read."""
        return int(self.db.execute("SELECT count(*) FROM volumes WHERE NOT refused").fetchone()[0])

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Key and bytes of each volume that can be read."""
        yield from self.db.execute("SELECT key, bytes FROM volumes WHERE NOT refused")

    def series(self) -> Iterator[SeriesCandidate]:
        """Volumes that can be read, in the order of their keys."""
        taken: dict[str, set[int]] = {}
        for study, number in self.db.execute("SELECT DISTINCT study, number FROM files WHERE number NOT NULL"):
            taken.setdefault(study, set()).add(number)
        rows = self.db.execute("SELECT content FROM volumes WHERE NOT refused ORDER BY key")
        yield from number_derived((unpack(SeriesCandidate, content) for (content,) in rows), taken)

    def refused(self) -> Iterator[RefusedSeries]:
        """Series, or volumes of them, that are refused, by key."""
        for (content,) in self.db.execute("SELECT content FROM volumes WHERE refused ORDER BY key"):
            yield unpack(RefusedSeries, content)

    def left_out(self) -> Iterator[LeftOutFile]:
        """Files that belong to no series, in the order of their paths."""
        for folder, name, reason, message in self.db.execute(
            "SELECT path, name, reason, message FROM files JOIN folders ON folders.id = folder "
            "WHERE series IS NULL AND owner IS NULL ORDER BY path, name"
        ):
            yield LeftOutFile(_join(folder, name), CaseError(Reason(reason), message))

    def place_of(self, path: Path) -> Path:
        """A path relative to the root of the tree; an archive counts as a folder."""
        return path.relative_to(self.unpacked if path.is_relative_to(self.unpacked) else self.root)

    # --- updating the index

    def update(self, modality: str, stable_seconds: float, rules: dict[str, Any], processes: int) -> None:
        """Look at every entry of the tree, and read what is new or has changed."""
        with _Helpers(processes) as helpers:
            if not self._look(stable_seconds) and not self._some("files WHERE unread") and not self._some("dirty"):
                return
            read = partial(_read, modality=modality)
            self._read(helpers, read)
            self._find_copies(helpers, read)
            self._find_circumstances()
            self._read_missing(helpers, read)
            self._sort_volumes(helpers, partial(_sort, rules=rules))
        self.db.commit()

    def _some(self, what: str) -> bool:
        return self.db.execute(f"SELECT 1 FROM {what} LIMIT 1").fetchone() is not None

    def _commit_now_and_then(self) -> None:
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            self.db.commit()
            self.committed = time.monotonic()

    def _look(self, stable_seconds: float) -> bool:
        """Note which files are new, changed or gone; returns whether there are any."""
        before: dict[Path, Any] = {}
        if stable_seconds > 0:
            before = dict(walk(self.root))
            time.sleep(stable_seconds)
        look = int(self._fact("look") or 0) + 1
        self.db.execute("INSERT OR REPLACE INTO facts VALUES ('look', ?)", (look,))
        some = False
        archives: list[Path] = []
        for folder, entries in groupby(walk(self.root), key=lambda entry: entry[0].parent):
            found = {os.fsencode(path.name): _stable(path, entry, before, stable_seconds) for path, entry in entries}
            some |= self._note_folder(os.fsencode(folder), found, look)
            whole = (name for name, entry in found.items() if isinstance(entry, tuple) and entry[1] is None)
            archives.extend(folder / os.fsdecode(name) for name in whole if is_archive(Path(os.fsdecode(name))))
        some |= self._look_into(archives, look)
        for folder, lost in groupby(sorted(before), key=lambda path: path.parent):
            found = {os.fsencode(path.name): changed("it was removed") for path in lost}
            some |= self._note_folder(os.fsencode(folder), found, look)
        for (gone,) in self.db.execute("SELECT id FROM folders WHERE look < ?", (look,)).fetchall():
            self._forget("folder = ?", (gone,))
            self.db.execute("DELETE FROM folders WHERE id = ?", (gone,))
            some = True
        return some

    def _look_into(self, archives: Sequence[Path], look: int) -> bool:
        """Unpack archives, and note the files that they hold."""
        if not archives:
            return False
        self.unpacked.mkdir(mode=0o700)
        for path, outcome in unpack_all(archives, self.root, self.unpacked).items():
            self.db.execute(
                "UPDATE files SET unread = 0, reason = ?, message = ? WHERE name = ? "
                "AND folder = (SELECT id FROM folders WHERE path = ?)",
                (str(outcome.reason), outcome.message, os.fsencode(path.name), os.fsencode(path.parent)),
            )
        some = False
        for folder, entries in groupby(walk(self.unpacked), key=lambda entry: entry[0].parent):
            found = {os.fsencode(path.name): entry for path, entry in entries}
            some |= self._note_folder(os.fsencode(folder), found, look)
        return some

    def _note_folder(
        self, folder: bytes, found: dict[bytes, tuple[Stamp, CaseError | None] | CaseError], look: int
    ) -> bool:
        """Compare the entries of a folder with the index. Later calls of one look add further entries of the folder."""
        row = self.db.execute("SELECT id, look FROM folders WHERE path = ?", (folder,)).fetchone()
        more = row is not None and row[1] == look
        self.db.execute(
            "INSERT INTO folders (path, look) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET look = excluded.look",
            (folder, look),
        )
        (number,) = self.db.execute("SELECT id FROM folders WHERE path = ?", (folder,)).fetchone()
        rows = self.db.execute("SELECT name, size, modified FROM files WHERE folder = ?", (number,))
        known = {name: (size, modified) for name, size, modified in rows}
        new: list[tuple[Any, ...]] = []
        for name, entry in found.items():
            if isinstance(entry, CaseError):
                new.append((number, name, NEVER, NEVER, 0, str(entry.reason), entry.message))
                continue
            stamp, error = entry
            if error is not None:
                new.append((number, name, *stamp, 1, str(error.reason), error.message))
            elif known.get(name) == stamp:
                continue
            elif is_volume_file(_join(folder, name)):
                new.append((number, name, *stamp, 0, str(VOLUME.reason), VOLUME.message))
            else:
                new.append((number, name, *stamp, 1, None, None))
        gone = [] if more else [(number, name) for name in known.keys() - found.keys()]
        for row in (*new, *gone):
            if row[1] in known:
                self._forget("folder = ? AND name = ?", row[:2])
        self.db.executemany(
            "INSERT INTO files (folder, name, size, modified, unread, reason, message) VALUES (?, ?, ?, ?, ?, ?, ?)",
            new,
        )
        self._commit_now_and_then()
        return bool(new or gone)

    def _forget(self, which: str, values: Sequence[Any]) -> None:
        """Remove files; their series must be sorted again."""
        self.db.execute(
            f"INSERT OR IGNORE INTO dirty SELECT series FROM files WHERE series NOT NULL AND {which}", values
        )
        self.db.execute(f"DELETE FROM headers WHERE file IN (SELECT id FROM files WHERE {which})", values)
        self.db.execute(f"DELETE FROM files WHERE {which}", values)

    def _read(self, helpers: _Helpers, read: Callable[[list[_Unread]], list[_Read]]) -> None:
        """Read the headers of all files marked unread."""

        def jobs() -> Iterator[list[_Unread]]:
            last = 0
            while rows := self.db.execute(
                "SELECT files.id, path, name, size, modified, reason, message FROM files JOIN folders "
                "ON folders.id = folder WHERE unread AND files.id > ? ORDER BY files.id LIMIT ?",
                (last, FILES_PER_JOB),
            ).fetchall():
                yield rows
                last = rows[-1][0]

        for found in helpers.map(read, jobs()):
            self.db.executemany(
                "UPDATE files SET unread = 0, series = ?, instance = ?, study = ?, number = ?, reason = ?, "
                f"message = ?, modified = CASE ? WHEN '{Reason.CHANGED}' THEN {NEVER} ELSE modified END WHERE id = ?",
                [(*facts, facts[4], file) for file, facts, _ in found],
            )
            kept = [(file, content) for file, _, content in found if content]
            self.db.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?)", kept)
            self.db.executemany("INSERT OR IGNORE INTO dirty VALUES (?)", [(facts[0],) for _, facts, c in found if c])
            self._commit_now_and_then()

    def _read_missing(self, helpers: _Helpers, read: Callable[[list[_Unread]], list[_Read]]) -> None:
        """Read the other files of each series in which some files have changed."""
        self.db.execute(
            "UPDATE files SET unread = 1 WHERE series IN (SELECT series FROM dirty) "
            "AND id NOT IN (SELECT file FROM headers)"
        )
        self._read(helpers, read)

    def _contents(self, series: str) -> list[bytes]:
        return [
            content
            for (content,) in self.db.execute(
                "SELECT content FROM files JOIN headers ON file = files.id JOIN folders ON folders.id = folder "
                "WHERE series = ? ORDER BY path, name",
                (series,),
            )
        ]

    def _find_copies(self, helpers: _Helpers, read: Callable[[list[_Unread]], list[_Read]]) -> None:
        """Mark byte-for-byte copies: damaged files are not assigned to a series by copies that lie beside them."""
        self._read_missing(helpers, read)
        self.db.execute("UPDATE files SET copy = 0 WHERE copy AND series IN (SELECT series FROM dirty)")
        for (series,) in self.db.execute(
            "SELECT DISTINCT series FROM files WHERE series IN (SELECT series FROM dirty) AND instance NOT NULL "
            "GROUP BY series, instance HAVING count(*) > 1"
        ).fetchall():
            members = sort_copies([unpack(list[Header], content) for content in self._contents(series)])
            copies = [os.path.split(os.fsencode(path)) for paths in members.copies.values() for path in paths]
            self.db.executemany(
                "UPDATE files SET copy = 1 WHERE name = ?2 AND folder = (SELECT id FROM folders WHERE path = ?1)",
                copies,
            )

    def _find_circumstances(self) -> None:
        """Note what other files mean for each series; a series for which this has changed is sorted again."""
        found: dict[str, dict[str, Any]] = {}

        def of(series: str) -> dict[str, Any]:
            return found.setdefault(series, {"own": [], "beside": False, "shared": []})

        self.db.execute("UPDATE files SET owner = NULL WHERE owner NOT NULL")
        reasons = ", ".join(f"'{reason}'" for reason in DAMAGED)
        damaged = self.db.execute(
            "SELECT folder, files.id, path, name, reason, message FROM files JOIN folders ON folders.id = folder "
            f"WHERE series IS NULL AND size >= 0 AND reason IN ({reasons}) ORDER BY path, name"
        ).fetchall()
        for folder, files in groupby(damaged, key=lambda row: row[0]):
            beside = self.db.execute(
                "SELECT DISTINCT series FROM files WHERE folder = ? AND series NOT NULL AND NOT copy", (folder,)
            ).fetchall()
            for _, file, *where, reason, message in files:
                if len(beside) == 1:
                    of(beside[0][0])["own"].append([os.fsdecode(os.path.join(*where)), reason, message])
                    self.db.execute("UPDATE files SET owner = ? WHERE id = ?", (beside[0][0], file))
            if len(beside) > 1:
                for (series,) in beside:
                    of(series)["beside"] = True
        for series, instance in self.db.execute(
            "SELECT DISTINCT series, instance FROM files WHERE instance IN (SELECT instance FROM files "
            "WHERE series NOT NULL AND instance NOT NULL GROUP BY instance HAVING count(DISTINCT series) > 1)"
        ):
            of(series)["shared"].append(instance)
        new = {series: json.dumps(content, sort_keys=True) for series, content in found.items()}
        old = dict(self.db.execute("SELECT series, content FROM circumstances"))
        other = [(series,) for series in new.keys() | old.keys() if new.get(series) != old.get(series)]
        self.db.executemany("INSERT OR IGNORE INTO dirty VALUES (?)", other)
        self.db.execute("DELETE FROM circumstances")
        self.db.executemany("INSERT INTO circumstances VALUES (?, ?)", new.items())

    def _sort_volumes(self, helpers: _Helpers, sort: Callable[[list[_Unsorted]], list[_Sorted]]) -> None:
        """Find the volumes of each series that has changed."""

        def jobs() -> Iterator[list[_Unsorted]]:
            last = ""
            while rows := self.db.execute(
                "SELECT dirty.series, content FROM dirty LEFT JOIN circumstances "
                "ON dirty.series = circumstances.series WHERE dirty.series > ? ORDER BY dirty.series LIMIT ?",
                (last, SERIES_PER_JOB),
            ).fetchall():
                yield [(series, self._contents(series), content) for series, content in rows]
                last = rows[-1][0]

        for done in helpers.map(sort, jobs()):
            names = [(series,) for series, _ in done]
            self.db.executemany("DELETE FROM volumes WHERE series = ?", names)
            rows = [(key, series, *rest) for series, volumes in done for key, *rest in volumes]
            self.db.executemany("INSERT INTO volumes VALUES (?, ?, ?, ?, ?)", rows)
            self.db.executemany("DELETE FROM headers WHERE file IN (SELECT id FROM files WHERE series = ?)", names)
            self.db.executemany("DELETE FROM dirty WHERE series = ?", names)
            self._commit_now_and_then()


# --- work of the helper processes

_Unread = tuple[int, bytes, bytes, int, int, str | None, str | None]
_Facts = tuple[str | None, str | None, str | None, int | None, str | None, str | None]
_Read = tuple[int, _Facts, bytes | None]
_Unsorted = tuple[str, list[bytes], str | None]
_Volume = tuple[str, bool, int, bytes]
_Sorted = tuple[str, list[_Volume]]


def _read(job: list[_Unread], modality: str) -> list[_Read]:
    """For each file: its number; series, instance, study, series number, reason, message; and its headers."""
    results: list[_Read] = []
    for file, folder, name, size, modified, reason, message in job:
        error = CaseError(Reason(reason), message or "") if reason == Reason.CHANGED else None
        looked = look_at(_join(folder, name), (size, modified), error, modality)
        if isinstance(looked, LeftOutFile):
            results.append((file, (None, None, None, None, str(looked.error.reason), looked.error.message), None))
            continue
        first = looked[0]
        stale = str(Reason.CHANGED) if first.error is not None and first.error.reason is Reason.CHANGED else None
        instance = hashed(first.sop_instance) if first.sop_instance else None
        number = None if is_ours(first) else first.series_number or 0
        facts = (hashed(first.series), instance, first.study, number, stale, None)
        results.append((file, facts, pack(looked)))
    return results


def _sort(job: list[_Unsorted], rules: dict[str, Any]) -> list[_Sorted]:
    """For each series, its volumes: key, whether refused, bytes, content."""
    results: list[_Sorted] = []
    for series, contents, text in job:
        volumes: list[_Volume] = []
        if contents:
            files = [unpack(list[Header], content) for content in contents]
            around: dict[str, Any] = json.loads(text or '{"own": [], "beside": false, "shared": []}')
            own = [LeftOutFile(Path(path), CaseError(Reason(reason), why)) for path, reason, why in around["own"]]
            shared = {one[0].sop_instance for one in files if hashed(one[0].sop_instance) in around["shared"]}
            for found in series_volumes(sort_copies(files), own, around["beside"], shared, **rules):
                refused = isinstance(found, RefusedSeries)
                size = 0 if isinstance(found, RefusedSeries) else sum(stamp[0] for stamp in found.stamps)
                volumes.append((found.key, refused, size, pack(found)))
        results.append((series, volumes))
    return results


class _Helpers:
    """Processes for many jobs; a small tree is worked on in this process."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Helpers:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Any], T], jobs: Iterator[Any]) -> Iterator[T]:
        """Yield the results in any order; only a few jobs are under way at a time."""
        first = list(islice(jobs, 2 * self.processes))
        if len(first) < 2 or self.processes == 1:
            yield from map(work, first)
            yield from map(work, jobs)
            return
        if self.pool is None:
            self.pool = ProcessPoolExecutor(self.processes, get_context("forkserver"), _begin)
        under_way: set[Future[T]] = {self.pool.submit(work, job) for job in first}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
            # also when all of them were done at once
            under_way |= {self.pool.submit(work, job) for job in islice(jobs, 2 * self.processes - len(under_way))}


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides when to stop
    end_with_starter()


# --- bytes and paths


def _stable(
    path: Path, entry: tuple[Stamp, CaseError | None] | CaseError, before: dict[Path, Any], stable_seconds: float
) -> tuple[Stamp, CaseError | None] | CaseError:
    """The state of an entry after two looks; removes it from the first."""
    if stable_seconds > 0 and before.pop(path, None) != entry and isinstance(entry, tuple):
        return entry[0], changed("it is still being written")
    return entry


def _join(folder: bytes, name: bytes) -> Path:
    return Path(os.fsdecode(os.path.join(folder, name)))


def _encode(value: object) -> object:
    if isinstance(value, Path):
        return os.fsencode(value)
    if isinstance(value, CaseError):
        return [str(value.reason), value.message]
    raise TypeError(f"an index holds headers and volumes, got {type(value).__name__}")


def _decode(kind: type, value: Any) -> object:
    return CaseError(Reason(value[0]), value[1]) if kind is CaseError else Path(os.fsdecode(value))


def pack(value: object) -> bytes:
    """Serialise and compress headers, or objects that hold them."""
    return zlib.compress(msgspec.msgpack.encode(value, enc_hook=_encode), 1)


def unpack(kind: type[T], content: bytes) -> T:
    """Undo :func:`pack`."""
    return msgspec.msgpack.decode(zlib.decompress(content), type=kind, dec_hook=_decode)


def _fingerprint(*parts: object) -> str:
    """Digest of the settings given and of the code that reads and sorts."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
