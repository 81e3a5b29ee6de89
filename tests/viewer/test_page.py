# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, used as a person would; what it shows is compared with nibabel's view of the files."""

from __future__ import annotations

import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import SHARED
from tests.viewer.conftest import serving, thick_slices, view, write_pair
from thinslice.viewer.cases import cases_in_output

pytestmark = [pytest.mark.system, pytest.mark.slow]

PANES = ("acquired", "result")
KEY = ("s", "c", "a")  # of a plane, by the world axis that it cuts across
ACROSS_AND_UP = ((1, 2), (0, 2), (0, 1))


@pytest.fixture(params=["phantom_pair", "odd_pair"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def real_pair(tmp_path_factory):
    """A real head of public data, made thick; its own thin slices stand for the result."""
    image = nib.load(SHARED / "data" / "test" / "mr_hr" / "t1_philips571.nii.gz")
    folder = tmp_path_factory.mktemp("real") / "out"
    write_pair(folder, "t1", np.asarray(image.dataobj, dtype=np.float32), image.affine, axis=2)
    return folder


@pytest.fixture
def shown(folder, looker):
    with serving(cases_in_output(folder)) as server:
        looker.open(server.url)
        yield looker
        outside = [url for url in looker.requests if not url.startswith((server.url, "data:", "blob:"))]
        assert outside == []


def volumes(folder):
    (case,) = cases_in_output(folder)
    return nib.load(case.acquired), nib.load(case.result), case.stack()


def click(looker, pane, x, y):
    box = looker.page.locator(f"#{pane} .marks").bounding_box()
    looker.page.mouse.click(box["x"] + x, box["y"] + y)
    return looker.settle()


def frame(result):
    """Lengths in mm of the result's sides along the axes nearest to right, front and head, and the image itself."""
    ras = nib.as_closest_canonical(result)
    return ras.shape * nib.affines.voxel_sizes(ras.affine), ras


def millimetres_per_pixel(result, plane, width, height):
    """The whole result is seen: the longer of its sides, against the pane, fills 1/1.04 of it."""
    extent, _ = frame(result)
    across, up = ACROSS_AND_UP[plane]
    return 1.04 * max(extent[across] / width, extent[up] / height)


def pixels_of_voxels(looker, pane, image, result, plane):
    """Values of the voxels in the shown plane, and the colours, ``(..., 3)``, of the pixels at their centres.

    The result is in the middle of the pane; the patient's right and front are on the left, head and front up.
    """
    picture = looker.picture(pane)
    height, width = picture.shape[:2]
    scale = millimetres_per_pixel(result, plane, width, height)
    across, up = ACROSS_AND_UP[plane]
    ras, (_, thin) = nib.as_closest_canonical(image), frame(result)
    number = round((np.linalg.inv(ras.affine) @ [*looker.cursors()[1], 1])[plane])
    values = np.asarray(ras.dataobj).take(number, plane)
    voxels = np.ones((*values.shape, 4))
    voxels[..., across], voxels[..., up] = np.meshgrid(*map(np.arange, values.shape), indexing="ij")
    voxels[..., plane] = number
    # through the world into the result's voxels, so that both panes are held to one frame
    places = (voxels @ ras.affine.T @ np.linalg.inv(thin.affine).T)[..., :3]
    mm = (places - (np.asarray(thin.shape) - 1) / 2) * nib.affines.voxel_sizes(thin.affine)
    x, y = width / 2 - mm[..., across] / scale, height / 2 - mm[..., up] / scale
    return values, picture[np.floor(y).astype(int), np.floor(x).astype(int)]


def compare_with_scan(looker, pane, image, result, plane):
    """Difference between each voxel of the shown plane and the pixel at its centre, in grey levels."""
    values, pixels = pixels_of_voxels(looker, pane, image, result, plane)
    low, high = looker.page.evaluate("viewer.view.window")
    return np.abs(pixels[..., 0] - 255 * ((values - low) / (high - low)).clip(0, 1))


def thick_plane(result, stack):
    """The plane that the slices lie in, and its key."""
    plane = int(nib.orientations.io_orientation(result.affine)[stack.thick_axis, 0])
    return plane, KEY[plane]


def test_the_cursors_are_at_the_same_place(shown, folder):
    acquired, result, _ = volumes(folder)
    seen = set()
    for pane, x, y in (("acquired", 150, 140), ("result", 480, 160), ("acquired", 860, 120), ("result", 200, 100)):
        click(shown, pane, x, y)
        one, two = shown.cursors()
        assert one == pytest.approx(two, abs=1e-3)
        # it is the centre of a voxel of the result, by nibabel's affine
        voxel = np.linalg.inv(result.affine) @ [*two, 1]
        assert voxel[:3] == pytest.approx(np.rint(voxel[:3]), abs=1e-3)
        index = tuple(np.rint(voxel[:3]).astype(int))
        assert float(shown.page.inner_text("#value-result")) == np.asarray(result.dataobj)[index]
        inside = np.rint((np.linalg.inv(acquired.affine) @ [*two, 1])[:3]).astype(int)
        if (inside >= 0).all() and (inside < acquired.shape).all():
            assert float(shown.page.inner_text("#value-acquired")) == np.asarray(acquired.dataobj)[tuple(inside)]
        seen.add(index)
        letters = re.findall(r"([RLAPSI]) ([\d.]+)", shown.page.inner_text("#place"))
        signed = [float(value) * (1 if letter in "RAS" else -1) for letter, value in letters]
        assert signed == pytest.approx(two, abs=0.06)
    assert len(seen) == 4


def test_stepping_by_acquired_slice_shows_the_scan_itself(shown, folder):
    acquired, result, stack = volumes(folder)
    plane, key = thick_plane(result, stack)
    shown.press(key)
    last = None
    for key in ("]", "]", "[", "]", "]"):
        shown.press(key)
        world = shown.cursors()[1]
        k = (np.linalg.inv(acquired.affine) @ [*world, 1])[stack.thick_axis]
        assert abs(k - round(k)) * stack.acquired_spacing_mm <= 0.5 * stack.result_spacing_mm + 1e-3
        if last is not None:
            assert round(k) - last == (1 if key == "]" else -1)
        last = round(k)
        assert f"in acquired slice {last + 1} of {acquired.shape[stack.thick_axis]}" in shown.page.inner_text("#where")
        assert compare_with_scan(shown, "acquired", acquired, result, plane).max() <= 2
        assert compare_with_scan(shown, "result", result, result, plane).max() <= 2


def test_planes_that_cut_the_slices(shown, folder):
    """The acquired volume across its slices, where an error of half a slice would show."""
    acquired, result, stack = volumes(folder)
    along, _ = thick_plane(result, stack)
    for plane, key in enumerate(KEY):
        if plane != along:
            shown.press(key)
            for pane, image in zip(PANES, (acquired, result), strict=True):
                off = compare_with_scan(shown, pane, image, result, plane)
                # a pixel's centre may lie on the border of two voxels
                assert (off <= 2).mean() > 0.98, (pane, plane)


def test_the_slabs_are_drawn_where_the_affines_say(shown, folder):
    acquired, result, stack = volumes(folder)
    along, _ = thick_plane(result, stack)
    plane = (along + 1) % 3
    across, _ = ACROSS_AND_UP[plane]
    key = KEY[plane]
    shown.press(key)
    with_lines = shown.picture("acquired", marks=True)
    shown.press("l")
    without = shown.picture("acquired", marks=True)
    changed = np.abs(with_lines - without).sum(2) > 20
    sideways = across == along
    profile = changed.mean(0 if sideways else 1)
    _, thin = frame(result)
    scale = millimetres_per_pixel(result, plane, changed.shape[1], changed.shape[0])
    size = changed.shape[1] if sideways else changed.shape[0]
    here = shown.cursors()[1]
    current = np.argmin([abs(c - (np.linalg.inv(result.affine) @ [*here, 1])[stack.thick_axis]) for c in stack.centres])
    found = 0
    for k in range(acquired.shape[stack.thick_axis]):
        if k == current:
            continue
        point = [0, 0, 0, 1]
        point[stack.thick_axis] = k
        place = (np.linalg.inv(thin.affine) @ acquired.affine @ point)[along]
        mm = (place - (thin.shape[along] - 1) / 2) * nib.affines.voxel_sizes(thin.affine)[along]
        pixel = size / 2 - mm / scale
        near = profile[max(0, int(pixel) - 1) : int(pixel) + 2]
        assert near.max() > 0.8, k
        found += 1
    assert found >= 5
    # and nowhere else but at the edges of the slice that the cursor is in
    lines = (profile > 0.8).sum()
    assert lines < 3 * (found + 3) + stack.acquired_spacing_mm / scale + 4


def test_the_wipe(shown, folder):
    shown.press("a")
    beside = {pane: shown.picture(pane) for pane in PANES}
    shown.press("w")
    wiped = shown.picture("result")
    assert wiped.shape[1] > beside["result"].shape[1]
    shown.page.evaluate("setWipe(0)")
    all_result = shown.settle().picture("result")
    shown.page.evaluate("setWipe(1)")
    all_acquired = shown.settle().picture("result")
    middle = wiped.shape[1] // 2
    assert np.abs(all_result - all_acquired).max() > 20
    assert (np.abs(wiped - all_acquired)[:, : middle - 2] <= 1).all()
    assert (np.abs(wiped - all_result)[:, middle + 2 :] <= 1).all()
    # the line by mouse and by keys
    box = shown.page.locator("#result .marks").bounding_box()
    shown.page.evaluate("setWipe(0.5)")
    shown.settle()
    shown.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60, steps=3)
    shown.page.mouse.up()
    assert shown.page.evaluate("viewer.view.wipe") == pytest.approx(0.25, abs=0.01)
    shown.press("Shift+ArrowRight")
    assert shown.page.evaluate("viewer.view.wipe") == pytest.approx(0.27, abs=0.01)
    shown.press("w")
    assert (shown.picture("result") == beside["result"]).mean() > 0.99


def check_colours_of_the_map(shown, error, result, top):
    """In the axial plane, at an opacity of 70 %: clear where the map is zero, solid and crimson at its top."""
    values, pixels = pixels_of_voxels(shown, "result", error, result, 2)
    grey = pixels_of_voxels(shown, "result", result, result, 2)[0]
    low, high = shown.page.evaluate("viewer.view.window")
    grey = 255 * ((grey - low) / (high - low)).clip(0, 1)[..., None]
    change = np.abs(pixels - grey).max(-1)
    assert (values == 0).any()
    assert change[values == 0].max() <= 2
    above = values >= top
    assert above.any()
    assert np.abs(pixels - (0.3 * grey + 0.7 * np.array([200, 20, 60])))[above].max() <= 3
    # in between, the opacity grows with the square of the value
    half = np.abs(values / top - 0.35) < 0.005
    assert half.any()
    cover = 0.7 * (0.35 / 0.7) ** 2
    assert np.abs(pixels - ((1 - cover) * grey + cover * np.array([254, 185, 40])))[half].max() <= 6


def test_window_map_and_ruler(shown, folder):
    _, result, _ = volumes(folder)
    shown.press("a")
    plain = {pane: shown.picture(pane) for pane in PANES}
    # a drag to the right widens the window, so that there is less contrast, in both panes
    first = shown.page.evaluate("viewer.view.window")
    box = shown.page.locator("#acquired .marks").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.page.mouse.move(x, y)
    shown.page.mouse.down(button="right")
    shown.page.mouse.move(x + 90, y, steps=3)
    shown.page.mouse.up(button="right")
    shown.settle()
    low, high = shown.page.evaluate("viewer.view.window")
    assert high - low == pytest.approx(1.3 * (first[1] - first[0]), rel=0.02)
    for pane in PANES:
        assert shown.picture(pane).std() < 0.9 * plain[pane].std()
    assert compare_with_scan(shown, "result", result, result, 2).max() <= 2
    shown.press("0")
    assert shown.page.evaluate("viewer.view.window") == pytest.approx(first)
    # the map colours the result and leaves the acquired slices alone; its legend is in the file's units
    shown.page.check("#map")
    shown.page.wait_for_selector("#scale", state="visible")
    shown.settle()
    mapped = shown.picture("result")
    colour = np.ptp(mapped, axis=2)
    assert (colour > 30).mean() > 0.002
    assert np.ptp(plain["result"], axis=2).max() <= 2
    assert (np.abs(shown.picture("acquired") - plain["acquired"]) <= 1).all()
    (case,) = cases_in_output(folder)
    error = nib.load(case.map)
    top = float(shown.page.inner_text("#legend-top").removeprefix("≥ "))
    assert top == pytest.approx(np.quantile(error.get_fdata(), 0.995), rel=0.03)
    check_colours_of_the_map(shown, error, result, top)
    shown.page.locator("#opacity").fill("20")
    assert np.ptp(shown.settle().picture("result"), axis=2).mean() < 0.5 * colour.mean()
    # a ruler of a length worked out from the scale: 100 pixels sideways, 60 up
    scale = millimetres_per_pixel(result, 2, box["width"], box["height"])
    shown.page.keyboard.down("Shift")
    shown.page.mouse.move(x - 50, y + 30)
    shown.page.mouse.down()
    shown.page.mouse.move(x + 50, y - 30, steps=3)
    shown.page.mouse.up()
    shown.page.keyboard.up("Shift")
    shown.settle()
    length = float(re.search(r"([\d.]+) mm", shown.page.inner_text("#measured"))[1])
    assert length == pytest.approx(scale * np.hypot(100, 60), rel=0.01)


def test_slabs_gaps_and_the_verdict_in_words(looker, phantom_pair):
    """Slices 6.4 mm apart, 5 mm thick; of the four thin ones of 1.6 mm, the outer two lie 2.4 mm from the centre."""
    with serving(cases_in_output(phantom_pair)) as server:
        looker.open(server.url)
        bar = looker.page.locator("#thin")
        for thin, words in ((9, "in acquired slice 3 of 12, 0.80 mm"), (8, "in acquired slice 3 of 12, 2.40 mm")):
            bar.fill(str(thin))
            assert words in looker.settle().page.inner_text("#where")
            assert bar.get_attribute("aria-valuetext").startswith(f"Thin slice {thin + 1} of 48: in acquired slice 3")
        assert "every 6.40 mm, 5.00 mm thick" in looker.page.inner_text("#thin-label")
        assert "1.2 dB nearer the truth" in looker.page.inner_text("#verdict")
        assert "Neighbouring slices are shifted" in looker.page.inner_text("#verdict .warning")
    # 4 mm thick: the outer thin slices lie 0.4 mm outside
    (case,) = cases_in_output(phantom_pair)
    case = type(case)(**{**case.__dict__, "slice_thickness_mm": 4.0})
    with serving([case]) as server:
        looker.open(server.url).page.locator("#thin").fill("8")
        words = "in the gap between acquired slices 2 and 3, 0.40 mm outside slice 3"
        assert words in looker.settle().page.inner_text("#where")
        looker.page.locator("#thin").fill("0")
        assert "outside the acquired slices, 0.40 mm beyond slice 1" in looker.settle().page.inner_text("#where")


UNNAMED = """() => [...document.querySelectorAll("input, button, a, [tabindex], nav, section, dialog")]
    .filter((e) => !(e.labels?.length || e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim()))
    .map((e) => e.outerHTML)"""
# the name of what has the focus, and the outline by which one sees it, which buttons of a group and the bar lend out
FOCUSED = """() => {
    const e = document.activeElement;
    const seen = e.id === "thin" ? e.parentElement : e.type === "radio" ? e.nextElementSibling : e;
    return [e.id || e.className || e.name, getComputedStyle(seen).outlineStyle];
}"""
CUT_OFF = """() => [...document.querySelectorAll("header > *, #strip, .pane, aside")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 1 || box.bottom > innerHeight + 1);
}).map((e) => e.id)"""


def test_keys_and_screen_readers(looker, phantom_pair):
    with serving(cases_in_output(phantom_pair)) as server:
        looker.open(server.url)
        assert looker.page.evaluate(UNNAMED) == []
        assert looker.page.get_attribute("html", "lang") == "en"
        # every control can be reached with the tabulator and shows that it has the focus
        reached = set()
        for _ in range(30):
            looker.page.keyboard.press("Tab")
            name, outline = looker.page.evaluate(FOCUSED)
            reached.add(name)
            assert outline != "none" or not name, name
        assert {"marks", "thin", "low", "high", "map", "lines", "smooth", "next", "previous", "export"} <= reached
        looker.page.locator("#result .marks").focus()
        before = looker.page.evaluate("viewer.view.voxel")
        looker.press("ArrowLeft", "ArrowLeft", "ArrowUp", "PageUp")  # right is left on the screen
        after = looker.page.evaluate("viewer.view.voxel")
        assert np.subtract(after, before).tolist() == [2, 1, 1]
        looker.page.wait_for_timeout(600)
        spoken = looker.page.inner_text("#live")
        assert re.search(r"R|L", spoken)
        assert "Thin slice" in spoken
        assert looker.page.get_attribute("#live", "aria-live") == "polite"
        looker.press("?")
        assert looker.page.locator("#help").is_visible()
        looker.press("Escape")
        assert not looker.page.locator("#help").is_visible()


def test_it_fits_a_small_laptop(looker, phantom_pair):
    with serving(cases_in_output(phantom_pair)) as server:
        looker.open(server.url)
        for width, height in ((1280, 720), (1440, 900)):
            looker.page.set_viewport_size({"width": width, "height": height})
            looker.settle()
            assert looker.page.evaluate(CUT_OFF) == []
            assert looker.page.locator("#result").bounding_box()["height"] > 0.38 * (height - 140)


def test_a_batch_with_a_list_and_a_search(looker, phantom_pair, odd_pair, tmp_path):
    for name, source in (("0a1b", phantom_pair), ("77ff", odd_pair), ("0a99", phantom_pair)):
        for file in source.iterdir():
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / name / re.sub(r"^(head|odd)", name, file.name))
    report = tmp_path / "report.html"
    report.write_text('<!doctype html><link rel="icon" href="data:,"><p>what the batch says')
    with serving(cases_in_output(tmp_path), report=report) as server:
        looker.open(server.url)
        page = looker.page
        assert page.locator("#list button").all_inner_texts() == ["0a1b", "0a99", "77ff"]
        assert page.inner_text("#name") == "0a1b"
        page.fill("#search", "FF")
        assert page.locator("#list button").all_inner_texts() == ["77ff"]
        assert page.inner_text("#found") == "1 of 3 series"
        page.click("#list button")
        looker.wait()
        assert page.inner_text("#name") == "77ff"
        assert looker.cursors()[0] == pytest.approx(looker.cursors()[1], abs=1e-3)
        # an address that names a series opens it
        looker.open(f"{server.url}?series=0a99")
        assert page.inner_text("#name") == "0a99"
        # whoever is impatient ends up with the series that was asked for last
        page.fill("#search", "")
        for name in ("0a1b", "77ff", "0a1b", "77ff"):
            page.click(f"#list button:text('{name}')")
        looker.wait()
        assert page.inner_text("#name") == "77ff"
        voxels = np.prod(nib.load(tmp_path / "77ff" / "77ff_acquired.nii.gz").shape)
        assert page.evaluate("panes.map((pane) => pane.niivue.volumes.length)") == [1, 1]
        assert page.evaluate("acquired.volume.img.length") == voxels
        page.click("#report")
        assert page.inner_text("p") == "what the batch says"


def test_the_export_opens_without_a_server(looker, folder, tmp_path):
    file = tmp_path / "case.html"
    assert view(folder, "--export", file).exit_code == 0
    acquired, result, stack = volumes(folder)
    looker.open(file.as_uri())
    assert [url for url in looker.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    along, key = thick_plane(result, stack)
    looker.press(key, "]")
    assert compare_with_scan(looker, "acquired", acquired, result, along).max() <= 2
    assert "The map is rounded" in looker.page.inner_text("#reduced")
    looker.page.check("#map")
    looker.page.wait_for_selector("#scale", state="visible")
    assert not looker.page.locator("#export").is_visible()


def test_the_export_button(looker, phantom_pair, tmp_path):
    with serving(cases_in_output(phantom_pair)) as server:
        looker.open(server.url)
        with looker.page.expect_download() as download:
            looker.page.click("#export")
        download.value.save_as(tmp_path / "head.html")
    assert download.value.suggested_filename == "case.html"  # no batch made the name "head", so it may be a person's
    looker.open((tmp_path / "head.html").as_uri())
    assert looker.page.inner_text("#name") == "case"


@pytest.mark.shared
def test_a_real_head(looker, real_pair):
    acquired, result, stack = volumes(real_pair)
    with serving(cases_in_output(real_pair)) as server:
        looker.open(server.url)
        click(looker, "result", 500, 150)
        one, two = looker.cursors()
        assert one == pytest.approx(two, abs=1e-3)
        along, key = thick_plane(result, stack)
        looker.press(key, "]", "]")
        off = compare_with_scan(looker, "acquired", acquired, result, along)
        assert (off <= 2).mean() > 0.98
        beside = looker.picture("result")
        looker.press("w")
        assert looker.picture("result").shape != beside.shape


def test_thick_slices_of_the_tests_lie_where_they_should():
    thin = np.arange(12.0).reshape(1, 1, 12)
    thick, affine = thick_slices(thin, np.eye(4), 2, 2.5, 0.75)
    assert thick.ravel().tolist() == [1, 3, 6, 8]  # means of 0 1 2, 2 3 4, 5 6 7, 7 8 9
    assert affine @ [0, 0, 2, 1] == pytest.approx([0, 0, 5.75, 1])
