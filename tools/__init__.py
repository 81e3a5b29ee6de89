# SPDX-License-Identifier: Apache-2.0
"""Commands for those who work on the project; nothing here is needed to run the bundle."""

import thinslice.location  # noqa: F401  puts the bundle on the path
