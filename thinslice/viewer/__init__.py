# SPDX-License-Identifier: Apache-2.0
"""Acquired and thin slices side by side in the browser."""
