# SPDX-License-Identifier: Apache-2.0
"""Weights that pass from stage to stage: bare state dicts, of which only tensors are unpickled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..files import whole

__all__ = ["load_weights", "require_weights", "save_weights"]


def load_weights(
    network: nn.Module, path: str | None, wanted_by: str = "this workflow", trained: str | None = None
) -> nn.Module:
    """Load a bare state dict, strictly.

    Args:
        network: receives the weights in place.
        path: file written by :func:`save_weights`; ``None`` leaves the network as it is.
        wanted_by: who needs the file, for the error message.
        trained: prefix of the names of the parameters that are trained; all others are frozen. The file may lack all
            parameters with this prefix, so that a network that extends another can be trained.

    Returns:
        ``network``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file does not fit the network.
    """
    if trained is not None:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
    if path is None:
        return network
    if not Path(path).is_file():
        raise FileNotFoundError(_missing(path, wanted_by))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if trained is not None and not any(name.startswith(trained) for name in state):
            own = {name: value for name, value in network.state_dict().items() if name.startswith(trained)}
            state = {**own, **state}
        network.load_state_dict(state)
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise ValueError(
            f"{path} must hold the bare state dict of {type(network).__name__} with the configured size, got "
            f"{type(error).__name__}: {str(error).splitlines()[0]}; give the network config it was trained with"
        ) from error
    return network


def require_weights(path: str | None, wanted_by: str) -> None:
    """End the process with a one-line message if the weights with which a stage starts do not exist.

    A stage that starts from random weights has no ``path``.

    Raises:
        SystemExit: with this message, if the file does not exist.
    """
    if path is not None and not Path(path).is_file():
        raise SystemExit(_missing(path, wanted_by))


def _missing(path: str, wanted_by: str) -> str:
    return (
        f"{wanted_by} needs weights at {path}, which does not exist; run the stage that writes them first, or give "
        "another path"
    )


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write a bare state dict (CPU tensors), atomically."""
    with whole(path) as part:
        torch.save({key: value.cpu() for key, value in network.state_dict().items()}, part)
