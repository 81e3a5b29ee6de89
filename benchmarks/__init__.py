# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, as ratios on the same machine; figures of quality are made in ``studies``."""

import thinslice.location  # noqa: F401  puts the bundle on the path
