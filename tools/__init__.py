# SPDX-License-Identifier: Apache-2.0
"""Commands behind the Makefile's targets; nothing here is needed to run the bundle."""
