# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of speed and memory, as ratios on the same machine. Figures of quality come from ``studies``."""

import thinslice.location  # noqa: F401  makes the bundle's package importable
