# SPDX-License-Identifier: Apache-2.0
"""Weights between the stages: bare state dicts, loaded without unpickling anything but tensors."""

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
        trained: how the names of the parameters begin that are trained; all others are frozen. The file may lack
            these, all of them together, so that a network can be trained that extends another.

    Returns:
        ``network``.

    Raises:
        FileNotFoundError: if there is no such file.
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
    """End the process, in one line, where a stage cannot start because the one before it has not been run.

    A stage that starts from nothing has no ``path``.

    Raises:
        SystemExit: with that line, if there is no such file.
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
