# SPDX-License-Identifier: Apache-2.0
"""Take the picture of the viewer in the docs: a scan and its result in headless Chromium."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright
from scripts.files import whole

from thinslice.viewer.cases import find_viewer_cases
from thinslice.viewer.server import ViewerServer

BROWSER = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")
SIZE: ViewportSize = {"width": 1280, "height": 720}  # the screen of a 13-inch laptop
TIMEOUT_MS = 300_000


def take(url: str, keys: list[str], voxel: list[float] | None) -> bytes:
    """PNG of the page after some keys were pressed.

    Args:
        url: address of the page.
        keys: keys, as Playwright names them, that are pressed one after the other.
        voxel: position of the cursor before that, as fractions of the result towards right, front and head.
    """
    program = shutil.which("chromium")
    if program is None:
        sys.exit("chromium must be installed (Debian package chromium)")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program, args=BROWSER)
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url)
        page.wait_for_selector("body[data-state=ready]")
        if voxel is not None:
            page.evaluate("(place) => viewer.goTo(place.map((f, i) => f * result.counts[i]))", voxel)
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(3000)
        picture = page.screenshot()
        browser.close()
    return picture


def main() -> None:
    """Serve a pair, take a picture of the page, and write it with few colours to keep it small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, required=True, help="NIfTI file, DICOM series, or output folder")
    parser.add_argument("--result", type=Path, help="its thin slices")
    parser.add_argument("--output", type=Path, default=Path("docs/images/viewer.png"))
    parser.add_argument("--keys", nargs="*", default=[], help="keys pressed before the picture is taken")
    parser.add_argument("--place", nargs=3, type=float, help="of the cursor, from 0 to 1 towards right, front, head")
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        server = ViewerServer(find_viewer_cases(arguments.scan, arguments.result, Path(scratch)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        picture = Image.open(io.BytesIO(take(server.url, arguments.keys, arguments.place)))
        server.shutdown()
    with whole(arguments.output) as part:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(part, optimize=True)
    print(f"{arguments.output}, {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
