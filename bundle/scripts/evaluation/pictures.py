# SPDX-License-Identifier: Apache-2.0
"""Draw Fig. 2 and 3 of the paper for one case: thick slices, methods, truth, their errors and an enlarged window."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from nibabel.orientations import apply_orientation, io_orientation
from scipy.ndimage import uniform_filter

from ..files import whole
from ..geometry import SliceGrid, voxel_spacing_mm
from .metrics import foreground

__all__ = ["TITLES", "draw_case", "draw_comparison", "turn_to_ras"]

# how pictures and pages name the methods of metrics.json
TITLES = {"bicubic": "cubic", "bicubic_dc": "cubic + data consistency", "ours": "this model"}

MOST_COLUMNS = 6
NAMES = ("sagittal", "coronal", "axial")


def turn_to_ras(volume: np.ndarray, affine_ras: np.ndarray) -> np.ndarray:
    """A volume with its axes in the order and direction closest to right, anterior, superior; a view.

    Args:
        volume: ``(I, J, K)`` in stored axes.
        affine_ras: ``(4, 4)``. Voxel axis ``a`` becomes axis ``io_orientation(affine_ras)[a, 0]``.
    """
    return apply_orientation(volume, io_orientation(affine_ras))


def draw_case(
    path: Path,
    thick: np.ndarray,
    results: Mapping[str, np.ndarray],
    truth: np.ndarray,
    thick_axis: int,
    affine_ras: np.ndarray,
    scores: Mapping[str, float],
    across: int | None = None,
) -> None:
    """:func:`draw_comparison` of volumes in stored axes; makes the folder.

    Args:
        path: path of the PNG.
        thick: the thick slices.
        results: name to ``(I, J, K)``.
        truth: ``(I, J, K)``.
        thick_axis: stored axis.
        affine_ras: ``(4, 4)`` of the truth.
        scores: name to PSNR in dB.
        across: stored axis across the cut that is shown; ``None`` chooses.
    """
    world = io_orientation(affine_ras)[:, 0].astype(int)
    spacing_mm = np.empty(3)
    spacing_mm[world] = voxel_spacing_mm(affine_ras)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(
        path,
        turn_to_ras(thick, affine_ras),
        {name: turn_to_ras(volume, affine_ras) for name, volume in results.items()},
        turn_to_ras(truth, affine_ras),
        int(world[thick_axis]),
        spacing_mm,
        scores,
        across=None if across is None else int(world[across]),
    )


def draw_comparison(
    path: str | os.PathLike,
    thick: np.ndarray,
    results: Mapping[str, np.ndarray],
    truth: np.ndarray,
    thick_axis: int,
    spacing_mm: Sequence[float] | np.ndarray,
    scores: Mapping[str, float] | None = None,
    title: str = "",
    across: int | None = None,
) -> None:
    """Write a PNG of one slice through the thick axis, in the middle of the tissue.

    All volumes lie in RAS+ axes (see :func:`turn_to_ras`), so that superior and anterior are up, right and anterior
    left. The window that is enlarged is where the methods differ most. Errors are absolute, in percent of the truth's
    range, on one scale up to the 99.5th percentile of all.

    Args:
        path: path of the PNG, whose folder exists. It is written completely or not at all.
        thick: the thick slices: ``truth.shape``, but K times fewer along the thick axis (K need not be whole); each
            thin slice shows its nearest thick one.
        results: name to ``(I, J, K)``, in the order of the panels.
        truth: ``(I, J, K)``.
        thick_axis: 0, 1 or 2.
        spacing_mm: ``(3,)`` of the truth.
        scores: name to PSNR in dB, written under the name.
        title: title of the picture.
        across: axis normal to the cut; ``None`` takes a sagittal cut if it contains the thick axis, else a coronal one.

    Raises:
        ValueError: if the shapes do not fit, or there is no result.
    """
    if not results:
        raise ValueError("results must hold a volume, got none; give at least one method")
    n_slices, n_thin = thick.shape[thick_axis], truth.shape[thick_axis]
    nearest = SliceGrid.over_slab(n_slices, n_thin / n_slices).nearest_slices
    repeated = (*thick.shape[:thick_axis], len(nearest), *thick.shape[thick_axis + 1 :])
    shapes = {"thick, repeated": repeated, **{name: volume.shape for name, volume in results.items()}}
    for name, shape in shapes.items():
        if shape != truth.shape:
            raise ValueError(f"{name} must have the truth's shape {truth.shape}, got {shape}; check the grid")
    # sagittal shows most, unless the slices themselves are sagittal
    if across is None:
        across = 1 if thick_axis == 0 else 0
    across_counts = foreground(truth).sum(axis=tuple(a for a in range(3) if a != across))
    index = int(np.searchsorted(across_counts.cumsum(), across_counts.sum() / 2))
    columns, rows = (a for a in range(3) if a != across)

    def cut(volume: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        plane = volume.take([index], across).astype(np.float32)
        plane = plane if places is None else plane.take(places, thick_axis)
        # rows run down and columns to the right, both against their axes
        return plane.squeeze(across).T[::-1, ::-1]

    images = {"thick slices": cut(thick, nearest)}
    images |= {name: cut(volume) for name, volume in results.items()} | {"truth": cut(truth)}
    value_range = max(float(truth.max()) - float(truth.min()), 1e-30)
    errors = {name: 100 * np.abs(image - images["truth"]) / value_range for name, image in images.items()}
    del errors["truth"]
    step = np.array([spacing_mm[rows], spacing_mm[columns]], dtype=np.float64)
    window = _window(np.stack([images[name] for name in results]), images["truth"], step)
    grey: dict[str, Any] = {
        "cmap": "gray",
        "vmin": float(np.percentile(images["truth"], 0.5)),
        "vmax": float(np.percentile(images["truth"], 99.7)),
    }
    top = max(float(np.percentile(np.stack(list(errors.values())), 99.5)), 1e-6)
    heat: dict[str, Any] = {"cmap": "inferno", "vmin": 0.0, "vmax": top}

    bands = -(-len(images) // MOST_COLUMNS)
    per_row = -(-len(images) // bands)
    height_mm, width_mm = images["truth"].shape * step
    width = 2.3
    height = width * float(np.clip(height_mm / width_mm, 0.4, 2.0))
    figure = Figure(figsize=(per_row * width + 0.9, bands * (2 * height + 0.5) + 0.3), layout="constrained", dpi=110)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * bands, per_row, squeeze=False)
    shown = None
    for place in range(bands * per_row):
        band, column = divmod(place, per_row)
        upper, lower = axes[2 * band, column], axes[2 * band + 1, column]
        name = list(images)[place] if place < len(images) else ""
        for axis, picture, scale in (
            (upper, images.get(name), grey),
            (lower, errors.get(name), heat),
        ):
            if picture is None:
                axis.set_axis_off()
                continue
            drawn = _panel(axis, picture, step, window, scale)
            shown = drawn if scale is heat else shown
        if name:
            score = "" if scores is None or name not in scores else f"PSNR {scores[name]:.2f} dB"
            upper.set_title(f"{TITLES.get(name, name)}\n{score}", fontsize=9, linespacing=1.2)
    assert shown is not None
    bar = figure.colorbar(
        shown,
        ax=axes,
        location="right",
        fraction=0.9 / (per_row * width + 0.9) * 0.3,
        shrink=min(1.0, 0.9 / bands),
        pad=0.01,
        extend="max",
    )
    bar.set_label("absolute error, % of the truth's range", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    place_text = f"{NAMES[across]} cut {index + 1} of {truth.shape[across]}"
    figure.suptitle(f"{title}, {place_text}" if title else place_text, fontsize=10)
    with whole(path) as part:
        figure.savefig(part, format="png")


def _window(results: np.ndarray, truth: np.ndarray, step_mm: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels of the square, a quarter of the shorter side, where results differ most.

    Args:
        results: ``(n, H, W)``; a single one is compared with the truth.
        truth: ``(H, W)``.
        step_mm: ``(2,)``, pixel height and width.
    """
    difference = results.var(axis=0) if len(results) > 1 else np.square(results[0] - truth)
    side_mm = 0.25 * float(min(truth.shape * step_mm))
    height, width = (max(2, round(side_mm / s)) for s in step_mm)
    mean = uniform_filter(difference.astype(np.float64), (height, width), mode="constant")
    # only windows inside the image; uniform_filter puts the centre at size // 2
    inside = mean[height // 2 : height // 2 + truth.shape[0] - height + 1, width // 2 :][
        :, : truth.shape[1] - width + 1
    ]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(y), int(x), height, width


def _panel(axis: Any, picture: np.ndarray, step_mm: np.ndarray, window: tuple[int, int, int, int], scale: dict) -> Any:
    """Draw a picture with a box around its window, and the window enlarged in the corner farthest from the box."""
    y, x, height, width = window
    aspect = step_mm[0] / step_mm[1]
    drawn = axis.imshow(picture, aspect=aspect, interpolation="nearest", **scale)
    axis.set(xticks=[], yticks=[])
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor="yellow", linewidth=0.9))
    size_mm = np.array(picture.shape) * step_mm
    tall, wide = 0.45 * min(size_mm) / size_mm
    left = 0.0 if x + width / 2 > picture.shape[1] / 2 else 1 - wide
    bottom = 0.0 if y + height / 2 < picture.shape[0] / 2 else 1 - tall
    inset = axis.inset_axes((left, bottom, wide, tall))
    inset.imshow(picture[y : y + height, x : x + width], aspect=aspect, interpolation="nearest", **scale)
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set(edgecolor="yellow", linewidth=0.9)
    return drawn
