# SPDX-License-Identifier: Apache-2.0
"""Custom components of the bundle; the package name is fixed by MONAI Label."""
