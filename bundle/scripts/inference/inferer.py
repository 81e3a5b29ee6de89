# SPDX-License-Identifier: Apache-2.0
"""Super-resolve a volume with a 2D network: both orientations that contain the thick axis, averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from ..networks.rdn import upsample_cubic
from .engines import Engine

__all__ = ["ThroughPlaneInferer"]


class _Box(NamedTuple):
    """Rows and columns of an image."""

    rows: slice
    columns: slice

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def union(self, other: _Box) -> _Box:
        """The smallest box that holds both."""
        return _Box(*(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(self, other, strict=True)))


def _span(tissue: torch.Tensor, margin: int) -> slice:
    """From the first to the last true value and ``margin`` beyond, empty if there is none."""
    found = tissue.nonzero()
    if not len(found):
        return slice(0, 0)
    return slice(max(0, int(found[0]) - margin), min(len(tissue), int(found[-1]) + 1 + margin))


class ThroughPlaneInferer(Inferer):
    """Run SRNet over all slices of both through-plane orientations.

    Each pass takes the volume apart into images that contain the thick axis, super-resolves them in batches and adds
    the result to one running mean. Air costs nothing: of each image only the box that holds tissue (and ``margin``
    pixels around it) is given to the network, the rest is interpolated.

    Args:
        scale_factor: K.
        batch_pixels: images are put together up to so many LR pixels per forward. On a CPU the activations should fit
            the cache; a GPU wants as many as fill it.
        window_pixels: an image larger than this is cut into windows along its rows; with ``batch_pixels`` this bounds
            the memory of the activations, whatever the size of the scan.
        halo: rows around each window, of tissue.
        background: values below this (unit range) are air; ``-inf`` skips nothing.
        margin: pixels of air that are computed on every side of the tissue. Fewer than ``halo`` suffice, since what is
            left out is all but constant.
        waste: neighbouring images are computed together while their common box is larger than their own ones by no
            more than this share.
        flips: run every orientation also with rows, slices and both reversed, and average (four times the work).
        spread: append the standard deviation over all passes as a second channel (the disagreement map).
        autocast: dtype name for mixed precision (``bfloat16``, ``float16``), or ``None``.
        adapt: optional callable ``(network, volume) -> network`` run once per scan before the passes.
        engine: optional :class:`scripts.inference.engines.Engine`, which converts the network after that.
        progress: show a progress bar.

    Raises:
        ValueError: if a size is out of range, or the engine knows no mixed precision.
    """

    def __init__(
        self,
        scale_factor: int,
        batch_pixels: int = 2**14,
        window_pixels: int = 2**16,
        halo: int = 24,
        background: float = -0.95,
        margin: int = 12,
        waste: float = 0.1,
        flips: bool = False,
        spread: bool = False,
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
            ("margin", margin, 0),
            ("waste", waste, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}; correct the id")
        if autocast and engine is not None and not engine.is_torch:
            raise ValueError(f"autocast must be null for engine {engine.name}, got {autocast!r}; set engine to torch")
        self.scale_factor = scale_factor
        self.batch_pixels = batch_pixels
        self.window_pixels = window_pixels
        self.halo = halo
        self.background = background
        self.margin = margin
        self.waste = waste
        self.flips = flips
        self.spread = spread
        self.autocast = autocast
        self.adapt = adapt
        self.engine = engine
        self.progress = progress

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Super-resolve one oriented scan.

        Args:
            inputs: ``(1, 1, H1, H2, n_slices)``, unit range, thick axis last.
            network: maps ``(B, 1, H, W)`` to ``(B, 1, H, K * W)``.
            args: not used; MONAI's signature.
            kwargs: not used.

        Returns:
            ``(1, C, H1, H2, K * n_slices)`` float32 on the inputs' device; channel 0 is the mean, channel 1 the
            spread, if asked for.
        """
        if inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise ValueError(f"inputs must have shape (1, 1, H1, H2, n_slices), got {tuple(inputs.shape)}")
        if self.adapt is not None:
            network = self.adapt(network, inputs)
        if self.engine is not None:
            network = self.engine(network)
        volume = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs)[0, 0]
        shape = (*volume.shape[:2], volume.shape[2] * self.scale_factor)
        result = torch.zeros((1, 2 if self.spread else 1, *shape), dtype=torch.float32, device=volume.device)
        passes = [(side, flip) for side in (0, 1) for flip in ([(), (1,), (2,), (1, 2)] if self.flips else [()])]
        total = sum(volume.shape[side] for side, _ in passes)
        hidden = None if self.progress else True  # None: no bar where the output is not a terminal
        progress = tqdm(total=total, unit="slice", desc="super-resolving", disable=hidden, leave=False)
        with torch.no_grad(), progress as bar:
            for count, (side, flip) in enumerate(passes, start=1):
                # (slices, rows, thick): views, so both orientations read and write the same memory
                images = volume.transpose(0, side).flip(flip)
                mean = result[0, 0].transpose(0, side)
                spread = result[0, 1].transpose(0, side) if self.spread else None
                for which, output in self._forward(images, network):
                    found = output.flip(flip) if flip else output
                    delta = found - mean[which]
                    mean[which] += delta / count
                    if spread is not None:  # Welford's running sum of squares
                        spread[which] += delta * (found - mean[which])
                    bar.update(len(output))
            if self.spread:
                result[0, 1].div_(len(passes)).sqrt_()
        return result

    def _forward(
        self, images: torch.Tensor, network: Callable[..., torch.Tensor]
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield ``(which, (b, rows, K * thick))`` until every image has been done once."""
        for which, box in self._groups(images):
            batch = images[which]
            output = upsample_cubic(batch[:, None], self.scale_factor)[:, 0]
            if box.area:
                columns = slice(self.scale_factor * box.columns.start, self.scale_factor * box.columns.stop)
                output[:, box.rows, columns] = self._windows(batch[:, box.rows, box.columns], network)
            yield which, output

    def _groups(self, images: torch.Tensor) -> Iterator[tuple[slice, _Box]]:
        """Neighbouring images that go into one forward, and the box that holds the tissue of all of them.

        An image joins as long as the batch stays within ``batch_pixels`` and the common box wastes little.
        """
        tissue = images > self.background
        boxes = [
            _Box(*(_span(along, self.margin) for along in image))
            for image in zip(tissue.any(dim=2).cpu(), tissue.any(dim=1).cpu(), strict=True)
        ]
        least = images[0].numel() / 8  # what an image of air takes: it is interpolated
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

    def _windows(self, rows: torch.Tensor, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        """``(b, h, w)`` to ``(b, h, K * w)``, in windows along the rows where the image is too large."""
        window = max(1, self.window_pixels // rows.shape[2])
        if rows.shape[1] <= window:
            return self._network(rows, network)
        parts = []
        for start in range(0, rows.shape[1], window):
            low, high = max(0, start - self.halo), min(rows.shape[1], start + window + self.halo)
            part = self._network(rows[:, low:high], network)
            parts.append(part[:, start - low : start - low + min(window, rows.shape[1] - start)])
        return torch.cat(parts, dim=1)

    def _network(self, rows: torch.Tensor, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        enabled = self.autocast is not None
        dtype = getattr(torch, self.autocast) if self.autocast else None
        with torch.autocast(rows.device.type, dtype=dtype, enabled=enabled):
            return network(rows[:, None])[:, 0].float()
