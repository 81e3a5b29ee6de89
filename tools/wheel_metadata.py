# SPDX-License-Identifier: Apache-2.0
"""What the wheel depends on, taken from ``requirements*.txt`` so that there is one list.

A requirements file pins the version that is tested; a wheel is installed beside other packages, so it asks for that
version or a later one. ``pip install -c constraints.txt`` gives the tested versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["EXTRAS", "CustomMetadataHook", "requirements"]

EXTRAS = ("train", "fast", "hosts", "cluster")


def requirements(file: Path) -> list[str]:
    """The requirements of one file, each with its pin as the lowest version."""
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line.replace("==", ">=") for line in lines if line and not line.startswith("-")]


class CustomMetadataHook(MetadataHookInterface):
    """Fills in ``dependencies`` and ``optional-dependencies`` of ``pyproject.toml``; the name is Hatch's."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by Hatch with the ``[project]`` table."""
        root = Path(self.root)
        metadata["dependencies"] = requirements(root / "requirements.txt")
        metadata["optional-dependencies"] = {name: requirements(root / f"requirements-{name}.txt") for name in EXTRAS}
