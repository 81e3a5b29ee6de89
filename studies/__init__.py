# SPDX-License-Identifier: Apache-2.0
"""What makes the figures of quality in the docs: tables with peers, ablations, calibration, sizes, slice profiles."""

import thinslice.location  # noqa: F401  puts the bundle on the path
