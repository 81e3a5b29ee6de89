# SPDX-License-Identifier: Apache-2.0
"""Entry point of the packaged application (MAP)."""

from app import main

raise SystemExit(main())
