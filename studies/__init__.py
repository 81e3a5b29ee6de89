# SPDX-License-Identifier: Apache-2.0
"""Studies that make the figures of quality in the docs: tables with peers, ablations, calibration, sizes, profiles."""

import thinslice.location  # noqa: F401  makes the bundle's package importable
