# SPDX-License-Identifier: Apache-2.0
"""What mercure hands over and takes back: folders, file names, settings."""

import json

import pytest

from tests.conftest import make_affine, smooth_volume
from thinslice import mercure
from thinslice.screen import CommandError


def task(folder, **settings):
    path = folder / "task.json"
    path.write_text(json.dumps({"id": "1", "process": {"module_name": "thinslice", "settings": settings}}))
    return path


def test_settings_are_those_of_the_module(tmp_path):
    assert mercure.read_settings(task(tmp_path, spacing=1.5, exact=True)) == {"spacing": 1.5, "exact": True}
    assert mercure.read_settings(task(tmp_path, spacing="isotropic")) == {"spacing": "isotropic"}
    assert mercure.read_settings(tmp_path / "nothing.json") == {}
    (tmp_path / "bare.json").write_text('{"process": {}}')
    assert mercure.read_settings(tmp_path / "bare.json") == {}


@pytest.mark.parametrize(
    "settings",
    [{"network_def": "$__import__('os')"}, {"spacing": "$1"}, {"spacing": True}, {"exact": "yes"}, {"device": 0}],
)
def test_anything_else_is_refused(tmp_path, settings):
    with pytest.raises(CommandError, match="setting") as error:
        mercure.read_settings(task(tmp_path, **settings))
    assert error.value.code == 2


def test_a_broken_task_is_refused(tmp_path):
    for text in ("[1]", "{", '{"process": [{"settings": {}}]}'):
        (tmp_path / "task.json").write_text(text)
        with pytest.raises(CommandError, match=r"task\.json must be JSON"):
            mercure.read_settings(tmp_path / "task.json")


@pytest.mark.slow
def test_a_task_comes_back_under_the_names_that_mercure_wants(thinslice):
    import pydicom

    from phantom.dicom import write_series

    (thinslice.folder / "out").mkdir()
    series = thinslice.folder / "in"
    for file in write_series(series, smooth_volume((48, 40, 8)), make_affine([1, 1, 4])):
        header = pydicom.dcmread(file)
        file.rename(series / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm")
    task(series, exact=True)
    result = thinslice("mercure", "in", "out")
    assert result.returncode == 0, result.stdout + result.stderr
    files = sorted((thinslice.folder / "out").iterdir())
    assert len(files) == 32
    for file in files:
        header = pydicom.dcmread(file)
        assert file.name == f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm"
        assert header.ImageType[0] == "DERIVED"
    nothing = thinslice("mercure", "out", "in")
    assert nothing.returncode == 3  # what is derived already is refused
