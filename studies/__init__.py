# SPDX-License-Identifier: Apache-2.0
"""What makes the figures of quality in the docs: tables with peers, ablations, calibration, sizes, slice profiles."""

import tools  # noqa: F401  puts bundle/ on the path
