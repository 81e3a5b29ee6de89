# SPDX-License-Identifier: Apache-2.0
"""Write ``report.html``, the report for people: pages that need no network and name no patient."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import whole
from ..reasons import Reason
from .report import Records

__all__ = ["PICTURES", "PLAIN_WORDS", "write_html"]

PICTURES = "pictures.json"
PAGES = "report"
TEMPLATE = "report.html.j2"
PLAIN_WORDS = {
    Reason.NONFINITE: "Some of its values are not numbers.",
    Reason.CONSTANT: "All its pixels have the same value; there is nothing to see.",
    Reason.TRUNCATED: "A file is cut off or damaged.",
    Reason.NO_DECODER: "Its images are compressed in a way that this installation cannot read.",
    Reason.UNREADABLE: "A file cannot be read.",
    Reason.NOT_3D: "It is not a stack of slices.",
    Reason.NOT_MR: "It is not an MR scan.",
    Reason.NOT_A_CT: "What was given as the patient's CT is none.",
    Reason.NOT_AN_IMAGE: "It is not an image.",
    Reason.LOCALIZER: "It is a localizer, which only serves to plan other scans.",
    Reason.QUANTITATIVE: "Its values are measurements, which must not be estimated.",
    Reason.ALREADY_DERIVED: "It was computed from another series; only original scans are processed.",
    Reason.MULTI_ECHO: "It holds several echoes that cannot be separated.",
    Reason.TIME_SERIES: "It holds several time points that cannot be separated.",
    Reason.ENHANCED_UNSUPPORTED: "Its files hold many slices each; it must be converted to one file per slice.",
    Reason.NO_GEOMETRY: "It does not say where its slices lie in the patient.",
    Reason.GAP: "A slice is missing.",
    Reason.STACKS_DIFFER: "The stacks do not show the same place in the same contrast.",
    Reason.GUIDE_DIFFERS: "The CT that was given does not fit it.",
    Reason.LABEL_MAP: "It is a map of labels, not an image.",
    Reason.ARCHIVE: "It is an archive, which must be unpacked first.",
    Reason.THIN_SLICES: "Its slices are so thin and so far apart that most of what lies between was not acquired.",
    Reason.DUPLICATE_POSITION: "Two slices have the same position.",
    Reason.NONUNIFORM: "Its slices are unevenly spaced.",
    Reason.SHEARED: "Its slices are not stacked along their normal.",
    Reason.MIXED_ORIENTATION: "Its slices point in different directions.",
    Reason.MIXED_GEOMETRY: "Its slices differ in size or thickness.",
    Reason.MIXED_ACQUISITION: "Its slices were not acquired in the same way.",
    Reason.ISOTROPIC: "Its slices are already thin.",
    Reason.TOO_SMALL: "It has too few slices or pixels.",
    Reason.TOO_LARGE: "It is larger than this installation allows.",
    Reason.OUTSIDE_ENVELOPE: "It differs from the scans that the model was tested on.",
    Reason.WORSE_THAN_CUBIC: "Plain interpolation would be better for it than this method.",
    Reason.MIXED_PATIENT: "Images of several patients or examinations are mixed in it.",
    Reason.UID_CONFLICT: "Different images have the same identifier.",
    Reason.DUPLICATE_NAME: "Another scan has the same name.",
    Reason.COUNT_MISMATCH: "It seems incomplete.",
    Reason.CHANGED: "It changed while it was read; it may still be arriving.",
    Reason.NOT_A_FILE: "It is not a regular file.",
    Reason.UNWRITABLE: "The result could not be written; the disk may be full.",
    Reason.OOM: "This machine does not have enough memory for it.",
    Reason.TIMEOUT: "It took too long.",
    Reason.WORKER_DIED: "The program that worked on it crashed.",
    Reason.INTERRUPTED: "The run was stopped before its turn.",
    Reason.INTERNAL: "Something unexpected went wrong.",
}


def write_html(
    output_dir: Path,
    summary: Mapping[str, Any],
    records: Records,
    left_out: Mapping[str, int],
    results_per_page: int,
    lines_per_page: int,
) -> None:
    """Write ``report.html``, and its further pages into the folder ``report``.

    ``source`` and the paths of left-out files are not shown: folders are often named after patients.

    Args:
        output_dir: output folder of the batch.
        summary: from :func:`~.report.summary_of`.
        records: one per discovered series.
        left_out: number of files that belong to no series, by reason.
        results_per_page: number of series with a result on one page, each with its pictures.
        lines_per_page: number of series without a result on one page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template(TEMPLATE)

    def pictures(record: Mapping[str, Any]) -> dict[str, Any] | None:
        path = output_dir / str(record["series"]) / PICTURES
        try:
            return json.loads(path.read_text()) if record["nifti"] else None
        except (OSError, ValueError):
            return None

    shutil.rmtree(output_dir / PAGES, ignore_errors=True)
    number = records.counts("done")
    pages = max(1, -(-number.get(True, 0) // results_per_page), -(-number.get(False, 0) // lines_per_page))
    done, others = records.of(True), records.of(False)
    for page in range(1, pages + 1):
        stream = template.stream(
            summary=summary,
            done=list(islice(done, results_per_page)),
            others=list(islice(others, lines_per_page)),
            left_out=left_out,
            pictures=pictures,
            words=lambda reason: PLAIN_WORDS[Reason(reason)],
            page=page,
            pages=pages,
            link=partial(_link, page),
        )
        with whole(output_dir / _name(page)) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(stream)


def _name(page: int) -> str:
    return "report.html" if page == 1 else f"{PAGES}/{page:05}.html"


def _link(page: int, other: int) -> str:
    """Relative link from one page to another."""
    return _name(other) if page == 1 else f"../{_name(other)}"
