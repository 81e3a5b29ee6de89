# SPDX-License-Identifier: Apache-2.0
"""LPIPS of the slices of a volume, with real AlexNet weights or not at all. Nothing is ever downloaded.

The package of its authors computes LPIPS (Zhang et al., CVPR 2018) with version 0.1 of its linear weights, which it
includes. It would download the weights of AlexNet; here they come from a file.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import lpips
import numpy as np
import torch

from .metrics import through_plane_slices

__all__ = ["MINIMUM_PIXELS", "SliceLPIPS", "find_alexnet", "require_alexnet"]

# the two poolings of AlexNet before its last features leave nothing of a smaller picture
MINIMUM_PIXELS = 31
FILE_NAME = "alexnet-owt-7be5be79.pth"


def find_alexnet(weights: str | None) -> tuple[Path | None, str]:
    """The file with AlexNet's weights.

    Args:
        weights: state dict in torchvision's layout. ``None``: torchvision's own name in torch hub's cache.

    Returns:
        The path and an empty reason; or, if the cache does not hold the file, ``None`` and why LPIPS is empty.

    Raises:
        FileNotFoundError: if ``weights`` names a file that does not exist.
    """
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"lpips_weights must name torchvision's AlexNet weights, got {path}, which does not exist; give the "
                "file's path, or leave the id out to do without LPIPS"
            )
        return path, ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME
    if path.is_file():
        return path, ""
    return None, (
        f"LPIPS is empty because torchvision's AlexNet weights ({FILE_NAME}) are not in torch hub's cache: put the "
        "file there or name one with lpips_weights"
    )


def require_alexnet(weights: str | None) -> None:
    """End the process with one line if ``weights`` names a file that does not exist.

    Raises:
        SystemExit: with that line.
    """
    try:
        find_alexnet(weights)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


class SliceLPIPS:
    """LPIPS (AlexNet, v0.1), mean over the slices of both through-plane orientations that hold tissue.

    Args:
        weights: state dict of torchvision's AlexNet (``features.*``; a classifier in it is not read). ``None``: the
            file of torchvision's own name in torch hub's cache.
        batch_pixels: bound of the pixels of one forward pass, at least one slice.
        device: device of the network.

    Raises:
        FileNotFoundError: if there is no such file; :func:`find_alexnet` tells beforehand.
        ValueError: if it does not fit.
    """

    def __init__(
        self, weights: str | None = None, batch_pixels: int = 2**20, device: str | torch.device = "cpu"
    ) -> None:
        path, reason = find_alexnet(weights)
        if path is None:
            raise FileNotFoundError(reason)
        if batch_pixels < 1:
            raise ValueError(f"batch_pixels must be at least 1, got {batch_pixels}; give the pixels that fit in memory")
        self.batch_pixels = batch_pixels
        self.device = torch.device(device)
        # the package draws random weights, which are then replaced; the generator of the caller must not change
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package uses an old interface of torchvision
            self.network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        _load(self.network.net, path)
        self.network.requires_grad_(False).eval().to(self.device)

    @staticmethod
    def refusal(shape: tuple[int, ...], thick_axis: int) -> str:
        """Why slices of a volume ``(I, J, K)`` cannot be scored; empty if they can."""
        sides = {axis: n for axis, n in enumerate(shape) if n < MINIMUM_PIXELS}
        # a slice across one in-plane axis has the other two sides, so every side is one of a slice
        if not sides:
            return ""
        return (
            f"LPIPS is empty because AlexNet takes pictures of at least {MINIMUM_PIXELS} pixels a side: the slices "
            f"through the thick axis {thick_axis} of a volume of {' x '.join(map(str, shape))} voxels are smaller"
        )

    @torch.inference_mode()
    def __call__(self, result: np.ndarray, truth: np.ndarray, thick_axis: int, tissue: np.ndarray) -> float:
        """Mean LPIPS, 0 for equal volumes.

        Each slice becomes three grey copies, ``2 (x - min) / (max - min) - 1`` with the limits of the true *volume*;
        what a result has outside them is not clipped.

        Args:
            result: ``(I, J, K)``.
            truth: same shape and grid.
            thick_axis: voxel axis along which the slices were thick.
            tissue: ``(I, J, K)`` boolean, see :func:`scripts.evaluation.metrics.foreground`.

        Raises:
            ValueError: if the slices are too small (see :meth:`refusal`), or none holds tissue.
        """
        if reason := self.refusal(truth.shape, thick_axis):
            raise ValueError(reason)
        places = through_plane_slices(tissue, thick_axis)
        if not places:
            raise ValueError("tissue must hold a voxel, got an empty mask; leave the case out")
        low, high = float(truth.min()), float(truth.max())
        total = 0.0
        for axis in sorted({axis for axis, _ in places}):
            indices = [i for a, i in places if a == axis]
            size = max(1, self.batch_pixels // (truth.size // truth.shape[axis]))
            for start in range(0, len(indices), size):
                chosen = indices[start : start + size]
                pair = [self._pictures(volume.take(chosen, axis), axis, low, high) for volume in (result, truth)]
                total += float(self.network(*pair).double().sum())
        return total / len(places)

    def _pictures(self, slices: np.ndarray, axis: int, low: float, high: float) -> torch.Tensor:
        """Slices along ``axis`` as ``(B, 3, H, W)``, the truth's range to [-1, 1]."""
        scaled = 2 * (np.moveaxis(slices, axis, 0).astype(np.float64) - low) / (high - low) - 1
        return torch.from_numpy(scaled.astype(np.float32)).to(self.device)[:, None].expand(-1, 3, -1, -1)


def _load(network: torch.nn.Module, path: Path) -> None:
    """Fill the package's AlexNet, whose layers ``slice2.3.weight`` are torchvision's ``features.3.weight``."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({key: state["features." + key.split(".", 1)[1]] for key in network.state_dict()})
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise ValueError(
            f"lpips_weights must hold a state dict of torchvision's AlexNet, got {path} with "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}; give another file"
        ) from error
