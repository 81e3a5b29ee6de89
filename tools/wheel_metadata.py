# SPDX-License-Identifier: Apache-2.0
"""Dependencies of the wheel, taken from ``requirements*.txt`` so that there is one list.

A requirements file pins the tested version. A wheel is installed beside other packages, so it requires that version or
a later one. A line that ends in ``# wheel: >=VERSION`` names an older version that has been tried as well.
``pip install -c constraints.txt`` gives the tested versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["CustomMetadataHook", "requirements"]


LOWEST = "wheel: "


def requirements(file: Path) -> list[str]:
    """The requirements of one file, each with its pin as the lowest version."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        pin, _, remark = (part.strip() for part in line.partition("#"))
        if pin and not pin.startswith("-"):
            name = pin.partition("==")[0]
            found.append(name + remark.removeprefix(LOWEST) if remark.startswith(LOWEST) else pin.replace("==", ">="))
    return found


class CustomMetadataHook(MetadataHookInterface):
    """Fill in ``dependencies`` and ``optional-dependencies`` of ``pyproject.toml``; Hatch requires this name."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by Hatch with the ``[project]`` table."""
        root = Path(self.root)
        metadata["dependencies"] = requirements(root / "requirements.txt")
        extras = {file.stem.removeprefix("requirements-"): file for file in sorted(root.glob("requirements-*.txt"))}
        extras.pop("dev", None)  # for those who work on the project
        metadata["optional-dependencies"] = {name: requirements(file) for name, file in extras.items()}
