# SPDX-License-Identifier: Apache-2.0
"""Settings of the node: one small JSON file, checked as a whole before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from ..location import BUNDLE  # noqa: F401 (it makes the bundle's scripts importable)

__all__ = [
    "Complete",
    "Destination",
    "Disk",
    "Retry",
    "Rule",
    "Settings",
    "SettingsError",
    "Tls",
    "check_title",
    "parse_caller",
    "parse_destination",
    "read_settings",
]

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Title = Annotated[str, Meta(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]  # PS3.5: ASCII without backslash
Port = Annotated[int, Meta(ge=1, le=65535)]


class SettingsError(Exception):
    """The settings are wrong; the message says what must hold, what was found and what to do."""


class Destination(Struct, frozen=True, forbid_unknown_fields=True):
    """A receiver of results, named by its AE title.

    Attributes:
        host: name or address.
        port: port of its C-STORE SCP.
        tls: whether to encrypt, with the node's own certificate.
        commitment: whether to ask for storage commitment: ``if_offered``, ``off`` or ``required`` (a series without it
            becomes a dead letter).
    """

    host: Annotated[str, Meta(min_length=1)]
    port: Port
    tls: bool = False
    commitment: Literal["if_offered", "off", "required"] = "if_offered"


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """Which series are taken, and what is done with them. A condition that is not given matches every series.

    Attributes:
        modality: values of Modality.
        body_part: words of ``scripts.dicom.anatomy``, such as ``head``.
        description: regular expression that is searched for in SeriesDescription, ignoring case.
        thickness_mm: lowest and highest SliceThickness; a series without one does not match.
        target_spacing_mm: slice spacing of the result in mm, or ``isotropic``; by default the bundle's own.
        when_worse: what happens if the self-check prefers cubic interpolation; an id of ``inference.json``, by
            default its value there.
        send_to: AE title of a destination; may be omitted if there is only one.
    """

    modality: list[str] = field(default_factory=lambda: ["MR"])
    body_part: list[str] | None = None
    description: str | None = None
    thickness_mm: tuple[NotNegative, Positive] | None = None
    target_spacing_mm: Positive | Literal["isotropic"] | None = None
    when_worse: str | None = None
    send_to: str | None = None


class Complete(Struct, frozen=True, forbid_unknown_fields=True):
    """When a series is complete.

    Attributes:
        stable_seconds: time without a new image, after a transfer that ended well.
        interrupted_seconds: time to wait for the continuation of a transfer that was cut off, before the series becomes
            a dead letter.
        whole_study: whether to wait until no series of the study is being received.
    """

    stable_seconds: Positive = 60
    interrupted_seconds: Positive = 900
    whole_study: bool = False


class Disk(Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the disk the node may use.

    Attributes:
        spool_gib: most received images; beyond it the node answers "out of resources" and the sender keeps its images.
        free_gib: free space that is always left.
        work_factor: bytes of free space required per byte of a series before its processing begins.
        keep_dead_days: days after which the images of dead letters are removed; their line stays.
    """

    spool_gib: Positive = 50
    free_gib: NotNegative = 2
    work_factor: NotNegative = 24
    keep_dead_days: Positive = 14


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """How often and how soon a failure is tried again: after ``first_seconds``, then after twice as long each time.

    Attributes:
        first_seconds: pause after the first failure.
        longest_seconds: longest pause.
        attempts: number of failures to send after which a series becomes a dead letter.
        work_attempts: the same for failures of the machine during processing.
        commitment_attempts: number of requests for storage commitment.
        commitment_seconds: time to wait for the answer to such a request.
    """

    first_seconds: Positive = 5
    longest_seconds: Positive = 600
    attempts: Annotated[int, Meta(ge=1)] = 150
    work_attempts: Annotated[int, Meta(ge=1)] = 3
    commitment_attempts: Annotated[int, Meta(ge=1)] = 3
    commitment_seconds: Positive = 600

    def pause_seconds(self, attempts: int) -> float:
        """Pause after so many failures in a row."""
        return float(min(self.longest_seconds, self.first_seconds * 2 ** min(attempts - 1, 30)))


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    """Mutual TLS: files in PEM form.

    Attributes:
        certificate: certificate of the node.
        key: key of the certificate; only the node may read it.
        authorities: certificates that must have signed those of callers and destinations.
    """

    certificate: str
    key: str
    authorities: str


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of the node.

    Attributes:
        callers: AE titles that may send, each with the address it must come from, or null for any. Destinations may
            send as well.
        destinations: AE title to destination.
        rules: the first rule that matches a series takes it; a series that no rule matches is ignored.
        complete: see :class:`Complete`.
        disk: see :class:`Disk`.
        retry: see :class:`Retry`.
        tls: encrypts what the node receives; null listens without encryption.
        batch: ids of ``batch_dicom.json``; those of the inference as ``inference::ID``.
    """

    callers: dict[Title, str | None] = {}
    destinations: dict[Title, Destination] = {}
    rules: Annotated[list[Rule], Meta(min_length=1)] = field(default_factory=lambda: [Rule()])
    complete: Complete = Complete()
    disk: Disk = Disk()
    retry: Retry = Retry()
    tls: Tls | None = None
    batch: dict[str, Any] = {}

    def destination_of(self, rule: Rule) -> str:
        """AE title of the destination for results of a rule."""
        return rule.send_to or next(iter(self.destinations))


def read_settings(
    file: Path | None,
    callers: dict[str, str | None] | None = None,
    destinations: dict[str, Destination] | None = None,
    batch: dict[str, Any] | None = None,
) -> Settings:
    """Read and check the settings.

    Args:
        file: JSON file; ``None`` takes the defaults.
        callers: further callers, from the command line.
        destinations: further destinations, from the command line.
        batch: further ids of the batch, from the command line.

    Raises:
        SettingsError: with one line that names the setting.
    """
    try:
        settings = msgspec.json.decode(file.read_bytes(), type=Settings) if file else Settings()
        settings = msgspec.structs.replace(
            settings,
            callers={**settings.callers, **(callers or {})},
            destinations={**settings.destinations, **(destinations or {})},
            batch={**settings.batch, **(batch or {})},
        )
        settings = msgspec.convert(msgspec.to_builtins(settings), Settings)  # also checks what the command line gave
    except OSError as error:
        raise SettingsError(f"rules must be a file that can be read, got {error.strerror}; correct the path") from error
    except msgspec.DecodeError as error:
        raise SettingsError(f"rules must be as docs/node.md says, got: {error}; correct {file or 'it'}") from error
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """Check what the types alone cannot."""
    from scripts.dicom.anatomy import BODY_PARTS

    if not settings.destinations:
        raise SettingsError("destinations must name at least one, got none; give --send-to AET@HOST:PORT")
    for number, rule in enumerate(settings.rules, 1):
        where = f"rule {number}"
        if rule.send_to is not None and rule.send_to not in settings.destinations:
            known = ", ".join(settings.destinations)
            raise SettingsError(f"{where}: send_to must be one of {known}, got {rule.send_to!r}; correct it")
        if rule.send_to is None and len(settings.destinations) > 1:
            raise SettingsError(f"{where}: send_to must be given where there are several destinations; add it")
        if rule.thickness_mm is not None and rule.thickness_mm[0] > rule.thickness_mm[1]:
            raise SettingsError(f"{where}: thickness_mm must be [lowest, highest], got {list(rule.thickness_mm)}; swap")
        try:
            re.compile(rule.description or "")
        except re.error as error:
            raise SettingsError(
                f"{where}: description must be a regular expression, got: {error}; correct it"
            ) from error
        if unknown := [part for part in rule.body_part or () if part not in BODY_PARTS]:
            known = ", ".join(BODY_PARTS)
            raise SettingsError(f"{where}: body_part must be among {known}, got {', '.join(unknown)}; correct it")
    encrypted = [name for name, one in settings.destinations.items() if one.tls]
    if encrypted and settings.tls is None:
        raise SettingsError(f"tls must be given where a destination wants it ({', '.join(encrypted)}); add it")


def parse_destination(text: str) -> tuple[str, Destination]:
    """``AET@HOST:PORT`` as a title and a destination.

    Raises:
        SettingsError: if it has another form.
    """
    title, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    if not title or not host or not port.isdigit():
        raise SettingsError(f"--send-to must be AET@HOST:PORT, got {text!r}; for example PACS@192.0.2.7:104")
    return title, Destination(host.strip("[]"), int(port))


def check_title(title: str) -> str:
    """Return the AE title of the node if it is valid.

    Raises:
        SettingsError: if it is not.
    """
    try:
        return msgspec.convert(title, Title)
    except msgspec.ValidationError as error:
        raise SettingsError(f"--aet must be 1 to 16 ASCII characters without backslash, got {title!r}") from error


def parse_caller(text: str) -> tuple[str, str | None]:
    """``AET`` or ``AET@ADDRESS`` as a title and an address."""
    title, _, address = text.partition("@")
    return title, address or None
