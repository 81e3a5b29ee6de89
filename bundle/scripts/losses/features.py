# SPDX-License-Identifier: Apache-2.0
"""phi: high-level features of an image, from a network pretrained on photographs. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision.models import squeezenet, vgg

__all__ = ["FEATURE_CONVENTIONS", "PretrainedFeatures", "require_features"]

# Input that the weights were trained with: channel order, and the factor and offset that map [-1, 1] to its range.
FEATURE_CONVENTIONS = ("torchvision", "caffe")


class PretrainedFeatures(nn.Module):
    """Frozen convolutional features of three grey copies of an image.

    Args:
        backbone: ``vgg16`` (up to relu5_3) or ``squeezenet`` (version 1.1, all features).
        weights: file with a state dict in torchvision's layout (``features.*``; a classifier is not read). ``None``
            stands for torchvision's own file in the cache of torch hub.
        convention: ``torchvision`` (RGB in [0, 1], minus the mean and divided by the standard deviation of ImageNet) or
            ``caffe`` (BGR in [0, 255], minus the mean).

    Raises:
        FileNotFoundError: if the file does not exist; the message names the file and the ids.
        ValueError: for an unknown backbone or convention, or a file that does not fit.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, backbone: str, weights: str | None = None, convention: str = "torchvision") -> None:
        super().__init__()
        path = _find(backbone, weights)
        if convention not in FEATURE_CONVENTIONS:
            raise ValueError(
                f"perceptual_convention must be one of {FEATURE_CONVENTIONS}, got {convention!r}; correct the id"
            )
        self.features = _vgg16() if backbone == "vgg16" else squeezenet.squeezenet1_1(weights=None).features
        _load(self.features, path, backbone)
        self.requires_grad_(False).eval()
        if convention == "torchvision":
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            scale, shift = 0.5 / std, (0.5 - mean) / std
        else:
            scale, shift = torch.full((3,), 127.5), 127.5 - torch.tensor([104.0, 117.0, 123.0])
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, W)`` about [-1, 1] to ``(B, 512, h, w)``, h and w about a sixteenth."""
        return self.features(image * self.scale + self.shift)


def _vgg16() -> nn.Sequential:
    """The first 30 layers: up to relu5_3, without the last pooling."""
    return vgg.make_layers(vgg.cfgs["D"])[:30]


def require_features(backbone: str, weights: str | None = None) -> None:
    """End the process with a one-line message if the weights of the perceptual loss are missing.

    Args:
        backbone: see :class:`PretrainedFeatures`.
        weights: see :class:`PretrainedFeatures`.

    Raises:
        SystemExit: with this message, if the file does not exist.
    """
    try:
        _find(backbone, weights)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error


def _find(backbone: str, weights: str | None) -> Path:
    """Path of the weights, whose existence has been checked."""
    files = {"vgg16": "vgg16-397923af.pth", "squeezenet": "squeezenet1_1-b8a52dc0.pth"}
    if backbone not in files:
        raise ValueError(f"perceptual_backbone must be one of {sorted(files)}, got {backbone!r}; correct the id")
    path = Path(torch.hub.get_dir()) / "checkpoints" / files[backbone] if weights is None else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"the perceptual loss needs the weights of {backbone} at {path}, which does not exist; put torchvision's "
            "file there, or name one with perceptual_weights, or choose another perceptual_backbone, or switch the "
            "term off with lambda_percep 0"
        )
    return path


def _load(features: nn.Module, path: Path, backbone: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = features.state_dict().keys()
        features.load_state_dict({key: state[f"features.{key}"] for key in wanted})
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise ValueError(
            f"perceptual_weights must hold a state dict of torchvision's {backbone}, got {path} with "
            f"{type(error).__name__}: {str(error).splitlines()[0]}; give another file or another perceptual_backbone"
        ) from error
