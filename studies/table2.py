# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 2 on your own data: the effect of each stage, in the paper's form and in ours.

    make table2 HR=<test> CT=<ct> MR=<mr> BUDGET=600 OUT=out/table2

Every row has the same budget in total; ``ablation`` in ``table1.json`` divides it between the stages. Writes
``table2.md``, ``table2.json`` and figures. ``studies/stage3_ablation.py`` is another comparison, with the same number
of iterations in every stage and several seeds.
"""

from __future__ import annotations

import sys

from studies.rows import Rows
from studies.tables import command_line, prepare, write_table


def main() -> None:
    """Run the rows and write the table."""
    arguments = command_line(__doc__).parse_args()
    try:
        inputs, lpips_reason = prepare(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    ablation = inputs.sets[0].parser.get("ablation")
    methods = ["bicubic", *ablation]
    unknown = set(arguments.rows or ()) - set(methods)
    if unknown:
        sys.exit(f"ROWS must be of {', '.join(methods)}, got {', '.join(sorted(unknown))}; correct it")
    runner = Rows(inputs, ablation)
    rows = [runner.run(method) for method in methods if not arguments.rows or method in arguments.rows]
    title = "Table 2: ablation by stage, at the same budget"
    print(write_table("table2", title, rows, "stage123_anchored", runner, lpips_reason, methods))
    print(f"table: {inputs.output / 'table2.md'}\nfigures: {inputs.output / 'figures'}")


if __name__ == "__main__":
    main()
