# SPDX-License-Identifier: Apache-2.0
"""``thinslice``: what a person types and sees. The method itself is the MONAI bundle.

In a wheel the folders ``bundle`` and ``phantom`` lie inside this package; in a checkout they lie beside it. The line
below makes both look the same: ``thinslice.phantom`` is there either way.
"""

from pathlib import Path

__path__.append(str(Path(__file__).resolve().parents[1]))
