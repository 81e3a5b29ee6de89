# SPDX-License-Identifier: Apache-2.0
"""Fetch the series of a DICOMweb server into a folder tree, which is then processed like any other."""

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
    """Fetch series from a server into a folder, one series and one instance at a time.

    Each series becomes a folder named by the hash of its UID, which appears by one rename when it is complete. A series
    that is already there is fetched again only if the server has another number of instances. Nothing is removed.

    Args:
        url: of the DICOMweb service, such as ``http://127.0.0.1:8042/dicom-web``. Series are found by QIDO-RS and
            fetched by WADO-RS, in the encoding that the server stores.
        folder: is created if it does not exist.
        modality: of the series.
        client: default: ``dicomweb_client.DICOMwebClient(url)``.

    Returns:
        Number of series that were fetched.

    Raises:
        OSError: if the server does not answer, or sends fewer instances than it says it has.
        ModuleNotFoundError: if ``dicomweb-client`` is not installed.
    """
    if client is None:
        from dicomweb_client import DICOMwebClient  # an optional package, which folders do not need

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
            raise OSError(f"a server must send all {count} instances of a series, got fewer; run again")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        fetched += 1
    return fetched


def _search(client: Any, modality: str) -> Iterator[tuple[str, str, int]]:
    """Study UID, series UID and number of instances of every series of a modality."""
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
