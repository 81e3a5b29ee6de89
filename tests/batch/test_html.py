# SPDX-License-Identifier: Apache-2.0
"""report.html: its pictures against cuts computed by nibabel, and the page in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from scripts.batch.html import PLAIN_WORDS
from scripts.batch.pictures import make_pictures
from scripts.geometry import Orientation, SliceGrid
from scripts.reasons import Reason

from tests.batch.conftest import read_report, thick_series
from tests.conftest import make_affine, smooth_volume
from tests.dicom.synthetic import drop


def test_every_reason_has_plain_words():
    assert set(PLAIN_WORDS) == set(Reason)


def grey(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L")).astype(float)


@pytest.mark.parametrize("thick_axis", [0, 1, 2])
@pytest.mark.parametrize("orientation", [{}, {"permute": (2, 0, 1), "flip": (-1, 1, -1)}, {"permute": (1, 2, 0)}])
def test_pictures_show_the_same_place_before_and_after(thick_axis, orientation):
    shape, spacing = [40, 44, 48], [1.0, 1.0, 1.0]
    shape[thick_axis], spacing[thick_axis] = 12, 4.0
    affine = make_affine(spacing, **orientation)
    scan = smooth_volume(shape)
    thin = np.repeat(scan, 4, axis=thick_axis) + 30.0
    image = MetaTensor(Orientation.of(affine, thick_axis).apply(torch.from_numpy(scan)[None]))
    thin_affine = SliceGrid.over_slab(shape[thick_axis], 4).thin_affine(affine, thick_axis)
    meta = {"affine": torch.from_numpy(thin_affine), "scale_factor": 4.0}
    pred = MetaTensor(torch.from_numpy(thin)[None], meta=meta)
    shown = make_pictures(image, pred, None, affine, thick_axis, count=3, quality=100)
    low, high = shown["window"]
    # nibabel's own way to the closest RAS axes is the second opinion on which voxel is where
    ras = nib.as_closest_canonical(nib.Nifti1Image(thin, thin_affine)).get_fdata()
    stored = nib.io_orientation(thin_affine)
    assert [plane["name"] for plane in shown["planes"]] == ["axial", "coronal", "sagittal"]
    for plane, across in zip(shown["planes"], (2, 1, 0), strict=True):
        flipped = stored[stored[:, 0] == across][0, 1] < 0
        for cut in plane["slices"]:
            index = cut["of"] - cut["number"] if flipped else cut["number"] - 1
            expected = np.take(ras, index, axis=across).T[::-1, ::-1]  # superior or anterior up; right or anterior left
            expected = 255 * ((expected - low) / (high - low)).clip(0, 1)
            assert grey(cut["after"]).shape == expected.shape
            assert np.abs(grey(cut["after"]) - expected).mean() < 4
            before = 255 * ((np.take(ras, index, axis=across).T[::-1, ::-1] - 30 - low) / (high - low)).clip(0, 1)
            assert np.abs(grey(cut["before"]) - before).mean() < 4


@pytest.fixture
def chromium(tmp_path):
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")

    def look(page, *options: str) -> str:
        result = subprocess.run(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
             f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
             "--virtual-time-budget=4000", *options, f"file://{page}"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    return look


@pytest.mark.system
@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path, batch_here, chromium):
    thick_series(tmp_path / "in" / "DOE^JANE", seed="one", shape=(48, 40, 9))
    thick_series(tmp_path / "in" / "b", seed="two", edit=drop(4))
    (tmp_path / "in" / "DOE.txt").write_text("hello")
    assert batch_here() == 3
    page = tmp_path / "out" / "report.html"
    text = page.read_text()
    assert "DOE" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)  # a picture may hold any three letters
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:|\./\?series=[0-9a-f])", text)
    assert "http://" not in text
    assert "https://" not in text
    report = read_report(tmp_path / "out")
    good, gap = sorted(report["series"], key=lambda record: record["status"])
    # a script of the test wipes and scrolls as a person would, then writes down what the browser has decoded
    probe = tmp_path / "probe.html"
    script = """<script>
    window.addEventListener("load", () => setTimeout(() => {
      const seen = [];
      for (const plane of document.querySelectorAll(".plane")) {
        const slicer = plane.querySelector(".slicer"), wiper = plane.querySelector(".wiper");
        const stage = plane.querySelector(".stage"), before = plane.querySelector(".before");
        const first = before.src;
        stage.dispatchEvent(new WheelEvent("wheel", {deltaY: 1, bubbles: true, cancelable: true}));
        wiper.value = 25; wiper.dispatchEvent(new Event("input"));
        const mapper = plane.querySelector(".mapper"); mapper.click();
        const box = before.getBoundingClientRect();
        seen.push({name: plane.querySelector("h3").textContent, scrolled: before.src !== first, slice: slicer.value,
          number: plane.querySelector(".number").textContent, ratio: box.width / box.height,
          map: !plane.querySelector(".map").hidden, clip: plane.querySelector(".after").style.clipPath,
          images: [...plane.querySelectorAll("img")].map((i) => i.naturalWidth * i.naturalHeight)});
      }
      document.body.dataset.seen = JSON.stringify(seen);
    }, 500));
    </script></body>"""
    probe.write_text(text.replace("</body>", script))
    dom = chromium(probe, "--dump-dom")
    seen = json.loads(re.search(r'data-seen="([^"]*)"', dom).group(1).replace("&quot;", '"'))
    assert [plane["name"] for plane in seen] == ["axial", "coronal", "sagittal"]
    shape, spacing = good["geometry_after"]["shape"], good["geometry_after"]["spacing_mm"]
    extent = np.multiply(shape, spacing)
    for plane, (width, height) in zip(seen, ((0, 1), (0, 2), (1, 2)), strict=True):
        assert plane["scrolled"]
        assert plane["slice"] == "5"
        assert plane["map"]
        assert all(plane["images"][:2])
        assert plane["ratio"] == pytest.approx(extent[width] / extent[height], rel=0.02)
        assert "inset" in plane["clip"]
    assert re.search(r'data-status="ok"><b>1</b>', dom)
    assert "A slice is missing." in dom
    assert gap["series"] in dom
    chromium(page, f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1300,1100")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L"))
    assert shot.shape == (1100, 1300)
    assert len(np.unique(shot)) > 100  # pictures with grey values, not only text
