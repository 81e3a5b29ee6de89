# SPDX-License-Identifier: Apache-2.0
"""``python -m thinslice.viewer``."""

import sys

from .command import main

sys.exit(main())
