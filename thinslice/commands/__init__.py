# SPDX-License-Identifier: Apache-2.0
"""The subcommands, one per file. A new file ``name.py`` with a function ``command`` becomes ``thinslice name``.

Its parameters are Typer's and the first line of its docstring is its help. A module here imports nothing heavy at
its top, because every module is imported to show the help; PyTorch and MONAI are imported where they are used.
"""
