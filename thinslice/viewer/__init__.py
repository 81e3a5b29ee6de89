# SPDX-License-Identifier: Apache-2.0
"""The viewer: acquired and thin slices side by side in the browser."""
