# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 1 on your own data: our method beside all peers, under one rule.

    make table1 HR=<test> CT=<ct> MR=<mr> HR_TRAIN=<train> BUDGET=600 OUT=out/table1

``SETS=paper`` takes the rows of the paper's table, ``fast`` those that train nothing or only on the scan, ``all`` (the
default) every system that the paper names; ``ROWS="lrtv smore"`` takes just these. Writes ``table1.md``,
``table1.json``, ``figures/`` (the paper's Fig. 2 and 3, quality against budget, gain against cost) and every result as
NIfTI under ``volumes/``. Started again with the same settings it goes on where it stopped.
"""

from __future__ import annotations

import json
import sys

from studies.cases import FOLDER
from studies.rows import Rows
from studies.tables import command_line, prepare, write_table

SETS: dict[str, list[str]] = json.loads((FOLDER / "table1.json").read_text())["sets"]


def main() -> None:
    """Run the rows, write the table."""
    parser = command_line(__doc__)
    parser.add_argument("--sets", choices=list(SETS), default="all", help="which rows, where --rows names none")
    arguments = parser.parse_args()
    unknown = set(arguments.rows or ()) - set(SETS["all"])
    if unknown:
        sys.exit(f"ROWS must be of {', '.join(SETS['all'])}, got {', '.join(sorted(unknown))}; correct it")
    methods = [m for m in SETS["all"] if m in (arguments.rows or SETS[arguments.sets])]
    try:
        inputs, lpips_reason = prepare(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    runner = Rows(inputs, inputs.sets[0].parser.get("ours"))
    rows = []
    title = f"Table 1: super-resolution by {inputs.sets[0].scale_factor:g} along the thick axis"
    for number, method in enumerate(methods, start=1):
        print(f"row {number} of {len(methods)}: {method}", flush=True)
        rows.append(runner.run(method))
    reference = "ours_shipped" if "ours_shipped" in methods else "ours_stage123"
    print(write_table("table1", title, rows, reference, runner, lpips_reason, runner.parser.get("pictured")))
    print(f"table: {inputs.output / 'table1.md'}\nfigures: {inputs.output / 'figures'}")


if __name__ == "__main__":
    main()
