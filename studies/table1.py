# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 1 on your own data: our method beside all peers, under one rule.

    make table1 HR=<test> CT=<ct> MR=<mr> HR_TRAIN=<train> BUDGET=600 OUT=out/table1

Writes ``table1.md``, ``table1.json``, ``figures/`` (the paper's Fig. 2 and 3, and quality against budget) and every
result as NIfTI under ``volumes/``. Started again with the same settings it goes on where it stopped.
"""

from __future__ import annotations

import sys

from studies.rows import Rows
from studies.tables import command_line, prepare, write_table

METHODS = (
    "bicubic", "bicubic_dc", "sinc", "zssr", "smore", "tscn", "ours_stage1", "ours_stage12", "ours_stage123",
    "rdn_supervised", "reconresnet", "eclare",
)  # fmt: skip


def main() -> None:
    """Run the rows, write the table."""
    arguments = command_line(__doc__).parse_args()
    methods = [m for m in METHODS if not arguments.rows or m in arguments.rows]
    unknown = set(arguments.rows or ()) - set(METHODS)
    if unknown:
        sys.exit(f"ROWS must be of {', '.join(METHODS)}, got {', '.join(sorted(unknown))}; correct it")
    try:
        inputs, lpips_reason = prepare(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    runner = Rows(inputs, inputs.sets[0].parser.get("ours"))
    rows = [runner.run(method) for method in methods]
    title = f"Table 1: super-resolution by {inputs.sets[0].scale_factor:g} along the thick axis"
    print(write_table("table1", title, rows, "ours_stage123", runner, lpips_reason, list(METHODS)))
    print(f"table: {inputs.output / 'table1.md'}\nfigures: {inputs.output / 'figures'}")


if __name__ == "__main__":
    main()
