# SPDX-License-Identifier: Apache-2.0
"""Writing NIfTI so that a file is either whole or absent."""

from __future__ import annotations

import os
from typing import Any

from monai.data import NibabelWriter

from ..files import whole

__all__ = ["AtomicNibabelWriter"]


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's NIfTI writer, writing beside the final name and renaming."""

    @classmethod
    def resample_if_needed(cls, data_array: Any, affine: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        """Never: a result has a grid of its own. MONAI's copies the volume to a wider dtype and back all the same."""
        return data_array, affine

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write ``filename``; on any error nothing of that name appears."""
        with whole(filename) as part:
            super().write(part, verbose=verbose, **kwargs)
