# SPDX-License-Identifier: Apache-2.0
"""What a person who works on the project types; nothing here is needed to run the bundle.

Importing this package puts ``bundle/`` on the path, so that the bundle's own package ``scripts`` is found by whoever
types ``python -m tools...`` (and ``studies``, ``benchmarks``, ``phantom``, which import it for that) in the checkout.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
