# SPDX-License-Identifier: Apache-2.0
"""The wheel, installed into an environment that has the heavy packages and nothing of this checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from tests.conftest import LIGHT, ROOT


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Path of the command ``thinslice``, installed from a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True, timeout=300
    )
    (wheel,) = folder.glob("thinslice-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True, timeout=300
    )
    (site,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    (site / "zz_shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy(LIGHT / "sitecustomize.py", site)
    return python.parent / "thinslice"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for all runs, so that the machine is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def thinslice(installed, cache, tmp_path):
    """Run the installed command in a folder with a space and a letter beyond ASCII in its name."""
    folder = tmp_path / "Maße einer Woche"
    folder.mkdir()

    def run(*arguments, timeout=600):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache), "COLUMNS": "200"}
        return subprocess.run(
            [installed, *map(str, arguments)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    run.folder = folder
    return run
