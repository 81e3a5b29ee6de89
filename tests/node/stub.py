# SPDX-License-Identifier: Apache-2.0
"""``thinslice serve`` whose worker repeats slices in place of the network: everything else is the real thing.

python -m tests.node.stub serve --aet THIN ...
"""

from __future__ import annotations

import functools
import os
import shutil
import time
import uuid
from dataclasses import asdict, replace
from datetime import datetime

import numpy as np
from scripts.batch.report import SeriesRecord, Status
from scripts.batch.staging import publish, sync
from scripts.dicom.reading import read_series
from scripts.dicom.writing import Provenance, write_series
from scripts.files import write_json, write_once
from scripts.reasons import CaseError

REPEATS = 2


class Stub:
    """Does a volume as the batch's worker does, but for the network."""

    seconds = float(os.environ.get("STUB_SECONDS", "0"))

    def __init__(self, spec, size, stage):
        self.stage = stage
        self.done = []

    def do(self, task) -> SeriesRecord:
        self.done.append(task.series.key)
        time.sleep(self.seconds)
        if task.final.is_dir():
            return replace(task.record, status=Status.SKIPPED, dicom_dir=f"{task.final.name}/dicom")
        try:
            volume = read_series(task.series)
        except CaseError as error:
            return replace(task.record, status=Status.REFUSED, reason=str(error.reason), message=error.message)
        task.jobs.mkdir(exist_ok=True)
        at = write_once(task.jobs / task.final.name, "2026-01-02T03:04:05+00:00")
        folder = self.stage / uuid.uuid4().hex
        folder.mkdir()
        array, affine = thin(volume.array, volume.affine_ras)
        write_series(folder / "dicom", array, affine, task.series, provenance(at), REPEATS)
        record = replace(task.record, status=Status.OK, dicom_dir=f"{task.final.name}/dicom")
        write_json(folder / "record.json", asdict(record))
        sync(folder)
        publish(folder, task.final)
        return record

    def stop(self):
        shutil.rmtree(self.stage, ignore_errors=True)


def thin(array, affine):
    """Every slice twice, at the right places."""
    step = np.eye(4)
    step[2, 2], step[2, 3] = 1 / REPEATS, -(REPEATS - 1) / (2 * REPEATS)
    return np.repeat(array, REPEATS, axis=2), affine @ step


def provenance(at: str) -> Provenance:
    return Provenance("stub", "0", "0" * 64, "1" * 64, datetime.fromisoformat(at))


if __name__ == "__main__":
    from thinslice.__main__ import main
    from thinslice.node import serving

    serving.serve = functools.partial(serving.serve, make=Stub)
    main()
