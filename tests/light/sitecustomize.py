# SPDX-License-Identifier: Apache-2.0
"""What a light installation lacks is absent in every Python that has this folder in its path.

No command but ``train``, ``evaluate`` and the exports may need one of these. Without them, MONAI is imported in three
quarters of the time.
"""

import importlib.abc
import sys

ABSENT = ("torchvision", "lpips", "skimage", "tensorboard", "matplotlib", "itk", "onnxruntime", "openvino")


class Absent(importlib.abc.MetaPathFinder):
    """Finds none of them."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Raise the error of a package that is not installed."""
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
