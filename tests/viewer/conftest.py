# SPDX-License-Identifier: Apache-2.0
"""Pairs of scan and result to look at, and a browser to look with."""

from __future__ import annotations

import io
import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from phantom.patient import make_patient
from thinslice.__main__ import app
from thinslice.viewer.cases import cases_in_output
from thinslice.viewer.server import ViewerServer

# what the self-check writes about a scan during which the patient moved
QUALITY = {
    "predicted_gain_db": 1.24, "withheld": None, "flags": ["motion_pixels"], "result": "network",
    "numbers": {"motion_pixels": {"value": 0.71, "at_most": 0.5}}, "error_map": {"coverage": 0.9},
}  # fmt: skip
SECONDS = 120_000  # a browser without a graphics card, beside other tests; in ms


def thick_slices(
    thin: np.ndarray, affine: np.ndarray, axis: int, factor: float, start: float
) -> tuple[np.ndarray, np.ndarray]:
    """Slices that are ``factor`` thin ones apart (any number), the first centred at thin coordinate ``start``.

    Each is the mean of the thin slices whose centres lie within half a step, so this needs no code of the bundle.
    """
    centres = np.arange(start, thin.shape[axis] - 0.5 - factor / 2 + 1e-6, factor)
    places = np.arange(thin.shape[axis])
    slabs = [thin.take(places[np.abs(places - c) <= factor / 2], axis).mean(axis) for c in centres]
    step = np.eye(4)
    step[axis, axis], step[axis, 3] = factor, start
    return np.stack(slabs, axis), affine @ step


def write_pair(
    folder: Path,
    name: str,
    thin: np.ndarray,
    affine: np.ndarray,
    axis: int = 2,
    factor: float = 4,
    start: float = 1.5,
    thickness_mm: float | None = None,
) -> tuple[Path, Path]:
    """Scan, result, map and self-check as a batch leaves them; returns the first two."""
    folder.mkdir(parents=True, exist_ok=True)
    thick, thick_affine = thick_slices(thin, affine, axis, factor, start)
    images = {
        "acquired": (np.rint(thick).astype(np.int16), thick_affine),
        "sr": (np.rint(thin).astype(np.int16), affine),
    }
    # exactly zero in the air, as real maps are
    disagreement = np.maximum(np.abs(np.gradient(thin, axis=axis)) - 10, 0)
    images["disagreement"] = (disagreement.astype(np.float32), affine)
    for postfix, (array, where) in images.items():
        nib.save(nib.Nifti1Image(array, where), folder / f"{name}_{postfix}.nii.gz")
    (folder / f"{name}_quality.json").write_text(json.dumps(QUALITY))
    if thickness_mm is not None:
        (folder / f"{name}_acquired.json").write_text(json.dumps({"SliceThickness": thickness_mm}))
    return folder / f"{name}_acquired.nii.gz", folder / f"{name}_sr.nii.gz"


@pytest.fixture(scope="session")
def phantom_pair(tmp_path_factory) -> Path:
    """A folder with one pair: an oblique made-up head of 1.6 mm, slices 6.4 mm apart of which 5 mm are acquired."""
    folder = tmp_path_factory.mktemp("phantom") / "out"
    patient = make_patient(1, (56, 64, 48), (1.6, 1.6, 1.6), contrast="t1", angles_degrees=(6.0, -4.0, 3.0))
    write_pair(folder, "head", patient.mr, patient.affine_ras, thickness_mm=5.0)
    return folder


@pytest.fixture(scope="session")
def odd_pair(tmp_path_factory) -> Path:
    """Stored in another order, slices stacked along the first axis and from back to front, 2.5 thin ones apart."""
    folder = tmp_path_factory.mktemp("odd") / "out"
    patient = make_patient(2, (52, 60, 44), (1.7, 1.5, 1.9), contrast="t2", angles_degrees=(2.0, 5.0, -8.0))
    thin, affine = nib.Nifti1Image(patient.mr, patient.affine_ras), np.asarray([[1, -1], [2, 1], [0, -1]])
    turned = thin.as_reoriented(affine)
    write_pair(folder, "odd", np.asarray(turned.dataobj), turned.affine, axis=1, factor=2.5, start=0.75)
    return folder


def view(*arguments):
    """``thinslice view`` in this process."""
    return CliRunner().invoke(app, ["view", *map(str, arguments)])


@contextmanager
def serving(cases, **options):
    """A server in a thread of this process."""
    server = ViewerServer(cases, **options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(phantom_pair):
    with serving(cases_in_output(phantom_pair)) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        options = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--disable-dev-shm-usage"]
        # no name resolves: whatever is not on this machine cannot be reached
        options.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        browser = engine.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


class Looker:
    """A page of the viewer in the browser, with what it asked for and what it complained of."""

    def __init__(self, page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))

    def open(self, url: str) -> Looker:
        self.page.goto(url)
        return self.wait()

    def wait(self) -> Looker:
        """Until the case is shown."""
        self.page.wait_for_selector("body[data-state=ready], body[data-state=error]", timeout=SECONDS)
        assert self.page.get_attribute("body", "data-state") == "ready", self.page.inner_text("#message")
        return self.settle()

    def settle(self) -> Looker:
        """Until what was asked for is drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self

    def press(self, *keys: str) -> Looker:
        for key in keys:
            self.page.keyboard.press(key)
        return self.settle()

    def picture(self, pane: str, marks: bool = False) -> np.ndarray:
        """Pixels of a pane, ``(rows, columns, 3)``, with or without what is drawn over the picture."""
        show = "visible" if marks else "hidden"
        self.page.evaluate(f"document.querySelectorAll('.marks').forEach((m) => m.style.visibility = '{show}')")
        shot = self.page.locator(f"#{pane}").screenshot()
        self.page.evaluate("document.querySelectorAll('.marks').forEach((m) => m.style.visibility = 'visible')")
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def cursors(self) -> np.ndarray:
        """World coordinates of both panes' cursors, ``(2, 3)``."""
        return np.asarray(self.page.evaluate("viewer.cursors()"))


@pytest.fixture
def looker(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    context.set_default_timeout(SECONDS)
    looker = Looker(context.new_page())
    yield looker
    context.close()
    assert looker.errors == []
