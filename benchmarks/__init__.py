# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, as ratios on the same machine; figures of quality are made in ``studies``."""

import tools  # noqa: F401  puts bundle/ on the path
