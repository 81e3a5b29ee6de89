# SPDX-License-Identifier: Apache-2.0
"""``thinslice``: the commands that a user types and what they show. The method itself is the MONAI bundle.

In a wheel the folders ``bundle`` and ``phantom`` lie inside this package; in a checkout they lie beside it, and the
first line below makes ``thinslice.phantom`` available there too. Importing this package makes the bundle's own
package, ``scripts``, importable.
"""

from pathlib import Path

__path__.append(str(Path(__file__).resolve().parents[1]))

from . import location  # noqa: E402, F401
