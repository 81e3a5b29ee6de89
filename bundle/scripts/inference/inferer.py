# SPDX-License-Identifier: Apache-2.0
"""Super-resolve a volume with a 2D network: both orientations that contain the thick axis, averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from ..networks.interpolation import interpolate_cubic
from ..transforms.consistency import scan_operator
from ..transforms.orient import image_axes, working_spacing_mm
from .engines import Engine

__all__ = ["ThroughPlaneInferer"]


Told = tuple[torch.Tensor, ...]  # positions, condition and, for a guided network, the guide


class _Box(NamedTuple):
    """Rows and columns of an image."""

    rows: slice
    columns: slice

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def union(self, other: _Box) -> _Box:
        """The smallest box that contains both."""
        return _Box(*(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(self, other, strict=True)))


def _span(tissue: torch.Tensor, margin: int) -> slice:
    """From the first to the last true value, plus ``margin`` on both sides; empty if no value is true."""
    found = tissue.nonzero()
    if not len(found):
        return slice(0, 0)
    return slice(max(0, int(found[0]) - margin), min(len(tissue), int(found[-1]) + 1 + margin))


class ThroughPlaneInferer(Inferer):
    """Run SRNet over all slices of both through-plane orientations.

    Each pass splits the volume into images that contain the thick axis, super-resolves them in batches and adds the
    result to one running mean. The network computes only the box of each image that contains tissue, with
    ``air_margin`` pixels around it. The air outside the box is interpolated.

    Args:
        profile: slice profile of the scans.
        slice_thickness_mm: overrides the header's thickness.
        batch_pixels: largest number of LR pixels in one batch. On a CPU, the activations should fit into the cache; on
            a GPU, a batch should be large enough to use all of it.
        window_pixels: an image larger than this is cut into windows along its rows; with ``batch_pixels`` this bounds
            the memory of the activations, whatever the size of the scan.
        halo: rows of context on both sides of each window.
        background: values below this (unit range) are air; ``-inf`` skips nothing.
        air_margin: pixels of air that are computed on every side of the tissue. Fewer than ``halo`` suffice, because
            the air that is left out is nearly constant.
        waste: neighbouring images share a batch as long as their common box adds at most this share to the pixels of
            their own boxes.
        flips: also run every orientation with the rows, the slices and both reversed, and average the results (four
            times the work).
        disagreement: append the standard deviation over all passes as a channel.
        error_map: append the network's expected absolute error, averaged over all passes, as the last channel. The
            network must predict it.
        autocast: dtype name for mixed precision (``bfloat16``, ``float16``), or ``None``.
        adapt: optional callable ``(network, volume) -> network``, called once per scan before the passes.
        engine: optional :class:`scripts.inference.engines.Engine`, which converts the network after the adaptation.
        progress: show a progress bar.

    Attributes:
        applied: ``(images (b, rows, thick), (positions, condition)) -> (b, 1 or 2, rows, thin)``: the network
            that super-resolved the last scan, adapted and converted, in the same precision, but without a guide. The
            self-check uses it.

    Raises:
        ValueError: if a size is out of range, or the engine does not have the precision of ``autocast``.
    """

    applied: Callable[..., torch.Tensor]

    def __init__(
        self,
        profile: str,
        slice_thickness_mm: float | None = None,
        batch_pixels: int = 2**14,
        window_pixels: int = 2**16,
        halo: int = 24,
        background: float = -0.95,
        air_margin: int = 12,
        waste: float = 0.1,
        flips: bool = False,
        disagreement: bool = False,
        error_map: bool = False,
        autocast: str | None = None,
        adapt: Callable[[Callable, torch.Tensor], Callable] | None = None,
        engine: Engine | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_pixels", batch_pixels, 1),
            ("window_pixels", window_pixels, 1),
            ("halo", halo, 0),
            ("air_margin", air_margin, 0),
            ("waste", waste, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}; correct the id")
        if autocast and engine is not None and not engine.is_torch and engine.autocast != autocast:
            raise ValueError(f"autocast must be the engine's, {engine.autocast!r}, got {autocast!r}; set it there too")
        self.profile = profile
        self.slice_thickness_mm = slice_thickness_mm
        self.batch_pixels = batch_pixels
        self.window_pixels = window_pixels
        self.halo = halo
        self.background = background
        self.air_margin = air_margin
        self.waste = waste
        self.flips = flips
        self.disagreement = disagreement
        self.error_map = error_map
        self.autocast = autocast
        self.adapt = adapt
        self.engine = engine
        self.progress = progress

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        guide: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Super-resolve one oriented scan.

        Args:
            inputs: ``(1, 1, H1, H2, n_slices)`` MetaTensor, unit range, thick axis last, with the meta data of
                :class:`scripts.transforms.orient.OrientThickAxisLast` and :class:`scripts.transforms.grid.ChooseGridd`.
            network: maps images, positions and condition as :class:`scripts.networks.srnet.SRNet` does.
            guide: ``(1, 2, H1, H2, n_thin)`` for a network that takes one
                (:class:`scripts.networks.guided.GuidedSRNet`), which is cut and turned like the images.
            args: not used; MONAI's signature.
            kwargs: not used.

        Returns:
            ``(1, C, H1, H2, n_thin)`` float32 on the inputs' device; channel 0 is the mean, followed by the
            disagreement and the expected error, where they are switched on.

        Raises:
            TypeError: if the inputs have no meta data.
            ValueError: if their shape is wrong, if ``error_map`` is set and the network does not predict its error, or
                if guide and network do not fit each other.
        """
        if (guide is not None) != getattr(network, "takes_guide", False):
            raise ValueError(
                f"a guide must be given to a network that takes one and to no other, got {type(network).__name__} "
                f"{'without' if guide is None else 'with'} one; use guide_ct and network_guided.json together"
            )
        if not isinstance(inputs, MetaTensor):
            raise TypeError(
                "inputs must be a MetaTensor that knows its grid, got a plain tensor; use the preprocessing"
            )
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"inputs must have shape (1, 1, H1, H2, n_slices), got {tuple(inputs.shape)}")
        if self.adapt is not None:
            network = self.adapt(network, inputs)
        if self.engine is not None:
            network = self.engine(network)
        self.applied = partial(self._network, network=network)
        operator = scan_operator(inputs, self.profile, self.slice_thickness_mm)
        spacing_mm = working_spacing_mm(inputs)
        volume = inputs.as_tensor()[0, 0]
        channels = 1 + self.disagreement + self.error_map
        shape = (channels, *volume.shape[:2], operator.grid.n_thin)
        result = torch.zeros((1, *shape), dtype=torch.float32, device=volume.device)
        passes = [
            (side, flip) for side in image_axes(inputs) for flip in ([(), (1,), (2,), (1, 2)] if self.flips else [()])
        ]
        total = sum(volume.shape[side] for side, _ in passes)
        hidden = None if self.progress else True  # None hides the bar where the output is not a terminal
        progress = tqdm(total=total, unit="slice", desc="super-resolving", disable=hidden, leave=False)
        with torch.no_grad(), progress as bar:
            for count, (side, flip) in enumerate(passes, start=1):
                # (slices, rows, thick), as views: both orientations read and write the same memory
                images = volume.transpose(0, side).flip(flip)
                told = operator.told(float(spacing_mm[1 - side] / spacing_mm[2]), volume.device)
                beside = None if guide is None else guide[0].movedim(0, -1).transpose(0, side).flip(flip).movedim(-1, 1)
                mean = result[0, 0].transpose(0, side)
                for which, output in self._forward(images, *told, network, beside):
                    found = output.flip([axis + 1 for axis in flip]) if flip else output
                    delta = found[:, 0] - mean[which]
                    mean[which] += delta / count
                    if self.disagreement:  # Welford's running sum of squares
                        result[0, 1].transpose(0, side)[which] += delta * (found[:, 0] - mean[which])
                    if self.error_map:
                        result[0, -1].transpose(0, side)[which] += found[:, 1] / len(passes)
                    bar.update(len(output))
            if self.disagreement:
                result[0, 1].div_(len(passes)).sqrt_()
        return result

    def _forward(
        self,
        images: torch.Tensor,
        positions: torch.Tensor,
        condition: torch.Tensor,
        network: Callable[..., torch.Tensor],
        guide: torch.Tensor | None,
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield ``(which, (b, 1 or 2, rows, thin))`` until every image has been done once.

        A ``guide`` has the shape ``(slices, 2, rows, thin)``. With ``error_map``, the second channel is the expected
        absolute error, which is 0 where there is only air.
        """
        for which, box in self._groups(images):
            batch = images[which]
            output = interpolate_cubic(batch[:, None], positions)
            if self.error_map:
                output = torch.cat([output, torch.zeros_like(output)], dim=1)
            if box.area:
                # the thin slices that lie within these thick slices
                inside = (positions >= box.columns.start - 0.5) & (positions < box.columns.stop - 0.5)
                first, count = int(inside.float().argmax()), int(inside.sum())
                told: Told = (positions.narrow(0, first, count) - box.columns.start, condition)
                if guide is not None:
                    told = (*told, guide[which, :, box.rows].narrow(-1, first, count))
                output[:, :, box.rows, first : first + count] = self._windows(
                    batch[:, box.rows, box.columns], told, network
                )
            yield which, output

    def _groups(self, images: torch.Tensor) -> Iterator[tuple[slice, _Box]]:
        """Neighbouring images that are computed in one batch, and the box that contains the tissue of all of them.

        An image joins the batch while the batch stays within ``batch_pixels`` and the common box within ``waste``.
        """
        tissue = images > self.background
        boxes = [
            _Box(*(_span(along, self.air_margin) for along in image))
            for image in zip(tissue.any(dim=2).cpu(), tissue.any(dim=1).cpu(), strict=True)
        ]
        least = images[0].numel() / 8  # the cost of an image of air alone, which is interpolated
        first, common, own = 0, boxes[0], max(boxes[0].area, least)
        for index, box in enumerate(boxes[1:], start=1):
            joined = common.union(box)
            size = (index + 1 - first) * max(joined.area, least)
            own += max(box.area, least)
            if size <= min(self.batch_pixels, (1 + self.waste) * own) and bool(box.area) == bool(common.area):
                common = joined
            else:
                yield slice(first, index), common
                first, common, own = index, box, max(box.area, least)
        yield slice(first, len(boxes)), common

    def _windows(self, rows: torch.Tensor, told: Told, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        """``(b, h, n)`` to ``(b, 1 or 2, h, N)``, in windows along the rows if the image is too large."""
        window = max(1, self.window_pixels // rows.shape[2])
        if rows.shape[1] <= window:
            return self._network(rows, told, network)
        parts = []
        for start in range(0, rows.shape[1], window):
            low, high = max(0, start - self.halo), min(rows.shape[1], start + window + self.halo)
            part = self._network(
                rows[:, low:high], (*told[:2], *(guide[:, :, low:high] for guide in told[2:])), network
            )
            parts.append(part[:, :, start - low : start - low + min(window, rows.shape[1] - start)])
        return torch.cat(parts, dim=2)

    def _network(self, rows: torch.Tensor, told: Told, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        enabled = self.autocast is not None and (self.engine is None or self.engine.is_torch)
        dtype = getattr(torch, self.autocast) if self.autocast else None
        with torch.autocast(rows.device.type, dtype=dtype, enabled=enabled):
            pred = network(rows[:, None], *told).float()
        if not self.error_map:
            return pred[:, :1]
        if pred.shape[1] != 2:
            raise ValueError("network must tell its expected error for error_map, got one channel; set it to false")
        return torch.cat([pred[:, :1], pred[:, 1:].exp()], dim=1)
