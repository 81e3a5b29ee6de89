# SPDX-License-Identifier: Apache-2.0
"""The comparison picture: what each panel shows, which way is up, and where the window is."""

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.image import imread
from scripts.evaluation import pictures
from scripts.evaluation.pictures import draw_comparison, turn_to_ras

from tests.conftest import make_affine, smooth_volume


@pytest.fixture
def drawn(monkeypatch):
    """Every figure as it is saved."""
    figures = []
    save = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def panels(figure):
    """Shown axes without the colour bar: title's first line (of the errors: "") and the pixels."""
    return [(a.get_title().split("\n")[0], np.asarray(a.images[0].get_array())) for a in figure.axes if a.images]


def case(shape=(24, 30, 32), methods=3):
    truth = smooth_volume(shape, seed=2)
    rng = np.random.default_rng(0)
    results = {f"method{i}": truth + rng.normal(0, 20 * (i + 1), shape).astype(np.float32) for i in range(methods)}
    return truth, truth.reshape(*shape[:2], -1, 4).mean(-1), results


@pytest.mark.parametrize(("methods", "rows", "columns"), [(1, 1, 3), (3, 1, 5), (4, 1, 6), (5, 2, 4), (11, 3, 5)])
def test_panels_rows_and_errors(tmp_path, drawn, methods, rows, columns):
    truth, thick, results = case(methods=methods)
    draw_comparison(tmp_path / "a.png", thick, results, truth, 2, (1, 1, 1), {"method0": 31.25}, "made up")
    (figure,) = drawn
    grid = figure.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (2 * rows, columns)
    shown = panels(figure)
    images = {name: pixels for name, pixels in shown if name}
    assert list(images) == ["thick slices", *results, "truth"]
    errors = [pixels for name, pixels in shown if not name and pixels.shape == images["truth"].shape]
    assert len(errors) == len(results) + 1  # none of the truth
    for name, error in zip(list(images)[:-1], errors, strict=True):
        expected = 100 * np.abs(images[name] - images["truth"]) / np.ptp(truth)
        np.testing.assert_allclose(error, expected, rtol=1e-5)
    scales = {a.images[0].get_clim() for a in figure.axes if a.images and not a.get_title() and a.get_subplotspec()}
    assert len({limits for limits in scales if limits[0] == 0.0}) == 1
    assert any("31.25" in a.get_title() for a in figure.axes)
    assert "made up" in figure.get_suptitle()
    pixels = imread(tmp_path / "a.png")
    assert pixels.shape[1] > 200 * columns
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("thick_axis", "rows", "columns"), [(2, 2, 1), (1, 2, 1), (0, 2, 0)], ids=["axial", "coronal", "sagittal"]
)
@pytest.mark.parametrize("orientation", [{}, {"permute": (1, 2, 0), "flip": (-1, 1, -1)}, {"rotate": (8, -6, 175)}])
def test_superior_is_up_and_right_or_anterior_left(tmp_path, drawn, thick_axis, rows, columns, orientation):
    """Each voxel holds its own world position, so that a panel says how it is oriented."""
    affine = make_affine([1, 1, 1], **orientation)
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), -1)
    world = grid @ affine[:3, :3].T + affine[:3, 3]
    for axis, name in ((rows, "down"), (columns, "right")):
        stored = world[..., axis].astype(np.float32)
        truth = turn_to_ras(stored, affine)
        thick = truth.take(range(0, 32, 4), thick_axis)
        draw_comparison(tmp_path / "a.png", thick, {"m": truth}, truth, thick_axis, (1, 1, 1))
        shown = dict(panels(drawn[-1]))["truth"]
        step = (np.diff(shown, axis=0 if name == "down" else 1)).mean()
        assert step < -0.9  # superior decreases downwards; right, or anterior, to the right


def test_thick_slices_are_repeated_as_blocks(tmp_path, drawn):
    truth, thick, results = case()
    draw_comparison(tmp_path / "a.png", thick, results, truth, 2, (1, 1, 1))
    shown = dict(panels(drawn[0]))["thick slices"]
    assert shown.shape == (32, 30)
    blocks = shown.reshape(8, 4, 30)
    assert (blocks == blocks[:, :1]).all()
    assert (np.diff(blocks[:, 0], axis=0) != 0).any(axis=1).all()


def test_each_thin_slice_shows_its_nearest_thick_one_for_any_factor(tmp_path, drawn):
    """K = 2.5: eight slices centred at 0.75, 3.25, 5.75, 8.25 and so on of twenty thin ones."""
    truth, _, results = case((24, 30, 20))
    thick = truth[..., [0, 3, 5, 8, 10, 13, 15, 18]]
    draw_comparison(tmp_path / "a.png", thick, results, truth, 2, (1, 1, 1))
    shown = dict(panels(drawn[0]))
    nearest = [0, 0, 0, 3, 3, 5, 5, 5, 8, 8, 10, 10, 10, 13, 13, 15, 15, 15, 18, 18]
    expected = shown["truth"][::-1][nearest][::-1]  # rows run against the axis
    differing = (shown["thick slices"] != expected).any(axis=1)[::-1]
    assert not np.delete(differing, [2, 7, 12, 17]).any()  # these lie halfway between two slices


def test_the_slice_is_in_the_middle_of_the_tissue(tmp_path, drawn):
    truth = np.zeros((40, 24, 24), np.float32)
    truth[25:36, 4:20, 4:20] = np.arange(25, 36)[:, None, None]
    draw_comparison(tmp_path / "a.png", truth[..., ::4], {"m": truth}, truth, 2, (1, 1, 1))
    assert dict(panels(drawn[0]))["truth"].max() == 30
    assert "sagittal cut 31 of 40" in drawn[0].get_suptitle()


def test_the_window_is_where_the_methods_differ_most(tmp_path, drawn):
    truth, thick, results = case((24, 48, 40), methods=2)
    results["method1"] = results["method0"].copy()
    results["method1"][:, 33:36, 29:32] += 700  # in the picture: columns 12 to 14, rows 8 to 10
    draw_comparison(tmp_path / "a.png", thick, results, truth, 2, (1, 1, 1))
    box = drawn[0].axes[0].patches[0]
    x, y = box.get_xy()
    assert x <= 11.5 < 14.5 <= x + box.get_width()
    assert y <= 7.5 < 10.5 <= y + box.get_height()
    assert x >= -0.5
    assert x + box.get_width() <= 47.5
    inset = drawn[0].axes[0].child_axes[0].images[0].get_array()
    whole = drawn[0].axes[0].images[0].get_array()
    top, left = round(y + 0.5), round(x + 0.5)
    np.testing.assert_array_equal(inset, whole[top : top + inset.shape[0], left : left + inset.shape[1]])


def naive_window(difference, height, width):
    best = max(
        (difference[y : y + height, x : x + width].mean(), y, x) for y in range(difference.shape[0] - height + 1)
         for x in range(difference.shape[1] - width + 1)
    )  # fmt: skip
    return best[1:]


@pytest.mark.parametrize("step", [(1.0, 1.0), (2.0, 0.7), (0.5, 1.1)])
def test_the_window_against_a_plain_search(step):
    rng = np.random.default_rng(7)
    results = rng.normal(size=(3, 37, 44))
    y, x, height, width = pictures._window(results, results[0], np.array(step))
    assert height * step[0] == pytest.approx(width * step[1], abs=max(step))  # square in mm
    assert (y, x) == naive_window(results.var(0), height, width)


def test_aspect_follows_the_spacing(tmp_path, drawn):
    truth, thick, results = case()
    draw_comparison(tmp_path / "a.png", thick, results, truth, 2, (0.9, 0.5, 2.0))
    assert drawn[0].axes[0].get_aspect() == pytest.approx(4.0)


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    truth, thick, results = case()
    with pytest.raises(ValueError, match="method1 must have the truth's shape"):
        draw_comparison(tmp_path / "a.png", thick, {**results, "method1": truth[1:]}, truth, 2, (1, 1, 1))
    with pytest.raises(ValueError, match="thick, repeated must have"):
        draw_comparison(tmp_path / "a.png", thick[1:], results, truth, 2, (1, 1, 1))
    with pytest.raises(ValueError, match="at least one method"):
        draw_comparison(tmp_path / "a.png", thick, {}, truth, 2, (1, 1, 1))
