# SPDX-License-Identifier: Apache-2.0
"""The series of a DICOMweb server as a folder tree, which is then taken like any other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .headers import hashed

__all__ = ["fetch_series"]

PART = ".part-"
PAGE = 500


def fetch_series(url: str, folder: Path, modality: str = "MR", client: Any = None) -> int:
    """Bring a folder up to date with a server, one series and one instance at a time.

    Each series becomes a folder named by the hash of its UID, by one rename when all of it is there. A series that is
    there already is fetched again only where the server has another number of instances. Nothing is removed.

    Args:
        url: of the DICOMweb service, such as ``http://127.0.0.1:8042/dicom-web``. Series are searched for by QIDO-RS
            and fetched by WADO-RS, as they are encoded there.
        folder: is created.
        modality: of the series.
        client: default: ``dicomweb_client.DICOMwebClient(url)``.

    Returns:
        How many series were fetched.

    Raises:
        OSError: if the server does not answer, or sends fewer instances than it says it has.
        ModuleNotFoundError: if ``dicomweb-client`` is not installed.
    """
    if client is None:
        from dicomweb_client import DICOMwebClient  # an extra, which a folder does without

        client = DICOMwebClient(url)
    folder.mkdir(parents=True, exist_ok=True)
    for rubbish in folder.glob(f"{PART}*"):
        shutil.rmtree(rubbish)
    fetched = 0
    for study, series, count in _search(client, modality):
        final, part = folder / hashed(series), folder / f"{PART}{hashed(series)}"
        if final.is_dir() and len(os.listdir(final)) == count:
            continue
        part.mkdir()
        instances = client.iter_series(study, series, media_types=(("application/dicom", "*"),))
        for number, dataset in enumerate(instances, 1):
            dataset.save_as(part / f"{number:06}.dcm", enforce_file_format=True)
        if len(os.listdir(part)) < count:
            raise OSError(f"a server must send the {count} instances it has of a series, got fewer; run again")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        fetched += 1
    return fetched


def _search(client: Any, modality: str) -> Iterator[tuple[str, str, int]]:
    """Study and series UID of every series of a modality, and how many instances it has."""
    offset = 0
    fields = ["StudyInstanceUID", "NumberOfSeriesRelatedInstances"]
    while page := client.search_for_series(
        search_filters={"Modality": modality}, fields=fields, limit=PAGE, offset=offset
    ):
        for found in page:
            yield (
                str(found["0020000D"]["Value"][0]),
                str(found["0020000E"]["Value"][0]),
                int(found["00201209"]["Value"][0]),
            )
        offset += len(page)
