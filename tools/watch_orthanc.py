# SPDX-License-Identifier: Apache-2.0
"""Watch an Orthanc on this machine: new thick MR series are super-resolved and go back into the same study.

    python -m tools.watch_orthanc --url http://127.0.0.1:8042 --work WORK --seconds 3600

Each round takes the series that have become stable since the last one, fetches them over DICOMweb (WADO-RS), runs
``batch_dicom.json``, stores the derived series (STOW-RS), reads them back and compares every element, because a PACS
that answers "stored" may have kept an older instance. ``WORK/state.json`` is updated only after that. So the watch can
be killed at any moment and started again: work is then repeated with the same result, or skipped.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pydicom
from scripts.files import write_json

from .run_bundle import BUNDLE, bundle_command, override

__all__ = ["Orthanc", "watch"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MULTIPART = 'multipart/related; type="application/dicom"'


class Orthanc:
    """Client of Orthanc's REST interface and its DICOMweb plugin, as far as the watch needs them.

    Args:
        url: address of the HTTP server, on loopback only, because there is neither encryption nor a password.
        timeout_seconds: limit per request.

    Raises:
        ValueError: for any other host.
    """

    def __init__(self, url: str, timeout_seconds: float = 120) -> None:
        if urlsplit(url).hostname not in LOOPBACK:
            raise ValueError(f"url must be on this machine ({', '.join(LOOPBACK)}), got {url}; use a tunnel or a proxy")
        self.url = url.rstrip("/")
        self.timeout_seconds = timeout_seconds

    def request(self, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, str]:
        """Body and content type of an answer.

        Raises:
            OSError: if the server does not answer, or answers with an error.
        """
        request = Request(
            self.url + path, data=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        with urlopen(request, timeout=self.timeout_seconds) as answer:
            return answer.read(), answer.headers.get("Content-Type", "")

    def get(self, path: str) -> Any:
        """Get a JSON answer."""
        return json.loads(self.request(path)[0])

    def stable_series(self, since: int, limit: int) -> tuple[list[str], int, bool]:
        """Ids of series that became stable after change ``since``; the last change; whether that is all."""
        answer = self.get(f"/changes?since={since}&limit={limit}")
        names = [change["ID"] for change in answer["Changes"] if change["ChangeType"] == "StableSeries"]
        return list(dict.fromkeys(names)), int(answer["Last"]), bool(answer["Done"])

    def uids(self, series: str) -> tuple[str, str, str]:
        """Study UID, series UID and modality of a series, by its Orthanc id."""
        facts = self.get(f"/series/{series}")
        study = self.get(f"/studies/{facts['ParentStudy']}")
        tags = facts["MainDicomTags"]
        return study["MainDicomTags"]["StudyInstanceUID"], tags["SeriesInstanceUID"], tags.get("Modality", "")

    def fetch(self, study_uid: str, series_uid: str) -> list[bytes]:
        """Fetch all files of a series by WADO-RS."""
        body, kind = self.request(f"/dicom-web/studies/{study_uid}/series/{series_uid}", Accept=MULTIPART)
        return list(_parts(body, kind))

    def store(self, files: Iterable[bytes]) -> None:
        """Store files by STOW-RS.

        Raises:
            OSError: if one was not accepted.
        """
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(head + data + b"\r\n" for data in files) + f"--{boundary}--\r\n".encode()
        kind = f"{MULTIPART}; boundary={boundary}"
        answer, _ = self.request("/dicom-web/studies", body, Content_Type=kind, Accept="application/dicom+json")
        if json.loads(answer).get("00081198", {}).get("Value"):  # FailedSOPSequence
            raise OSError("Orthanc must accept every instance, but some failed; look at its log")


def _parts(body: bytes, content_type: str) -> Iterable[bytes]:
    """Contents of a multipart body."""
    boundary = content_type.split("boundary=")[1].split(";")[0].strip('"').encode()
    for part in body.split(b"--" + boundary)[1:-1]:
        yield part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")


def _same(a: bytes, b: bytes) -> bool:
    """Whether two files hold the same elements, including pixels, whatever their encoding."""
    return pydicom.dcmread(io.BytesIO(a)) == pydicom.dcmread(io.BytesIO(b))


def _send(orthanc: Orthanc, folder: Path) -> str:
    """Store a derived series and read it back.

    Returns:
        Its SeriesInstanceUID.

    Raises:
        OSError: if Orthanc then holds other content under its identifiers.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        files[dataset.SOPInstanceUID] = data
    orthanc.store(files.values())
    kept = {}
    for data in orthanc.fetch(dataset.StudyInstanceUID, dataset.SeriesInstanceUID):
        kept[pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID] = data
    if kept.keys() != files.keys() or not all(_same(files[uid], kept[uid]) for uid in files):
        raise OSError("PACS_MISMATCH: Orthanc must keep what it is sent, but holds something else; delete its copy")
    return str(dataset.SeriesInstanceUID)


def watch(orthanc: Orthanc, work: Path, seconds: float, pause_seconds: float, limit: int, **ids: Any) -> int:
    """Make rounds until the time is over.

    Args:
        orthanc: the server.
        work: folder that only the watch uses, for its state and for series that are under way.
        seconds: time after which to stop; 0 makes one round.
        pause_seconds: pause after a round that found nothing.
        limit: the most changes per round, which also limits the size of ``work``.
        ids: overrides of ``batch_dicom.json``.

    Returns:
        Number of derived series that were stored.
    """
    log = logging.getLogger("watch")
    state_file = work / "state.json"
    work.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"last_change": 0, "sent": []}
    if state_file.exists():
        state = json.loads(state_file.read_text())
    deadline = time.monotonic() + seconds
    total = 0
    while True:
        names, last, everything = orthanc.stable_series(state["last_change"], limit)
        sent = _round(orthanc, work, names, set(state["sent"]), ids, log)
        total += len(sent)
        state = {"last_change": last, "sent": sorted({*state["sent"], *sent})}
        write_json(state_file, state)
        _tidy(work)
        if everything and time.monotonic() >= deadline:
            return total
        if everything:
            time.sleep(min(pause_seconds, max(0.0, deadline - time.monotonic())))


def _round(
    orthanc: Orthanc, work: Path, names: list[str], ours: set[str], ids: dict[str, Any], log: logging.Logger
) -> list[str]:
    """Fetch, process, send back and tidy up."""
    source, target = work / "in", work / "out"
    shutil.rmtree(source, ignore_errors=True)
    for name in names:
        study_uid, series_uid, modality = orthanc.uids(name)
        if modality != "MR" or series_uid in ours:
            continue
        folder = source / name
        folder.mkdir(parents=True)
        for number, data in enumerate(orthanc.fetch(study_uid, series_uid)):
            (folder / f"{number:06d}.dcm").write_bytes(data)
    if not source.exists():
        return []
    command = bundle_command(["batch_dicom.json"], bundle=BUNDLE, dataset_dir=source, output_dir=target, **ids)
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 3):
        raise OSError(f"the batch must run, but ended with code {code}; see its messages")
    sent = []
    for record in json.loads((target / "report.json").read_text())["series"]:
        if record["dicom_dir"]:
            sent.append(_send(orthanc, target / record["dicom_dir"]))
            log.info("%s: %d slices went back", record["series"], record["n_slices_out"])
        else:
            log.info("%s: %s %s", record["series"], record["status"], record["reason"])
    return sent


def _tidy(work: Path) -> None:
    """Remove the files of a round except the times of derivation, so that a repeated round gives the same bytes."""
    shutil.rmtree(work / "in", ignore_errors=True)
    for path in (work / "out").glob("[0-9a-f]*"):
        if path.is_dir():
            shutil.rmtree(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8042", help="Orthanc's HTTP server, on this machine")
    parser.add_argument("--work", type=Path, required=True, help="folder for the state and what is under way")
    parser.add_argument("--seconds", type=float, default=0, help="when to stop; 0 makes one round")
    parser.add_argument("--pause-seconds", type=float, default=10, help="between rounds that found nothing")
    parser.add_argument("--limit", type=int, default=500, help="Orthanc changes per round")
    arguments, rest = parser.parse_known_args()
    ids = dict(override(word.removeprefix("--")) for word in rest)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    watch(Orthanc(arguments.url), arguments.work, arguments.seconds, arguments.pause_seconds, arguments.limit, **ids)


if __name__ == "__main__":
    main()
