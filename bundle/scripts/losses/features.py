# SPDX-License-Identifier: Apache-2.0
"""phi: high-level features of an image, from a network pretrained on photographs. Nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision.models import squeezenet, vgg

__all__ = ["FEATURE_CONVENTIONS", "PretrainedFeatures", "require_features"]

# What the weights were trained with: channel order, factor and offset that take a grey image in [-1, 1] there.
FEATURE_CONVENTIONS = ("torchvision", "caffe")


class PretrainedFeatures(nn.Module):
    """Frozen convolutional features of three grey copies of an image.

    Args:
        backbone: ``vgg16`` (up to relu5_3) or ``squeezenet`` (version 1.1, all features).
        weights: state dict in torchvision's layout (``features.*``; a classifier in it is not read). ``None``: the
            file of torchvision's own name in torch hub's cache.
        convention: ``torchvision`` (RGB in [0, 1], minus mean, over standard deviation of ImageNet) or ``caffe`` (BGR
            in [0, 255], minus mean).

    Raises:
        FileNotFoundError: if the file does not exist; it names the file and the ids.
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
    """End the process, in one line, where the weights of the perceptual loss are missing.

    Args:
        backbone: see :class:`PretrainedFeatures`.
        weights: see there.

    Raises:
        SystemExit: with that line, if there is no such file.
    """
    try:
        _find(backbone, weights)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error


def _find(backbone: str, weights: str | None) -> Path:
    """The file, which exists."""
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
