# SPDX-License-Identifier: Apache-2.0
"""What a person who works on the project types; nothing here is needed to run the bundle."""

import thinslice.location  # noqa: F401  puts the bundle on the path
