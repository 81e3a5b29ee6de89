# SPDX-License-Identifier: Apache-2.0
"""What computes the network: PyTorch itself, or what it is converted to when a run starts.

The conversion is made of the network in memory, weights and all, so there is no exported file that could be out of
step with ``model.pt``, and an adapted network is converted like any other. Figures: ``docs/exports.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["ENGINES", "Engine", "onnx_model", "torchscript_model"]

ENGINES = ("torch", "torchscript", "onnxruntime", "openvino")
EXAMPLE_SHAPE = (2, 1, 24, 16)  # all axes but the channel are dynamic, so any shape will do; 0 and 1 are special


def torchscript_model(network: nn.Module) -> torch.jit.ScriptModule:
    """The network as TorchScript, for inputs of any size."""
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.script(network.eval()))


def onnx_model(network: nn.Module) -> bytes:
    """The network as a serialised ONNX model with input ``image``, output ``pred``; batch, rows, slices are dynamic.

    Needs the packages ``onnx`` and ``onnxscript``.
    """
    size = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program: Any = torch.onnx.export(
        network.eval(),
        (torch.zeros(EXAMPLE_SHAPE, device=next(network.parameters()).device),),
        dynamo=True,
        dynamic_shapes=(size,),
        input_names=["image"],
        output_names=["pred"],
        verbose=False,
    )
    return program.model_proto.SerializeToString()


class _Compiled(nn.Module):
    """A converted network with the look of the original."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, 1, H, W)`` to ``(B, 1, H, K * W)``."""
        return self.compute(image)


class Engine:
    """Callable ``network -> network`` for :class:`scripts.inference.inferer.ThroughPlaneInferer`.

    Args:
        name: one of :data:`ENGINES`. ``torch`` changes nothing; ``onnxruntime`` and ``openvino`` need the package of
            that name and run on the CPU.

    Raises:
        ValueError: for any other name.
    """

    def __init__(self, name: str = "torch") -> None:
        if name not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {name!r}; correct the id")
        self.name = name
        self._source: Callable[..., torch.Tensor] | None = None
        self._compiled: Callable[..., torch.Tensor] | None = None

    @property
    def is_torch(self) -> bool:
        """Whether PyTorch computes, so that its devices and its mixed precision apply."""
        return self.name in ("torch", "torchscript")

    def __call__(self, network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Convert a network, once: asked for the same object again, the conversion of before is returned.

        Raises:
            TypeError: if there is nothing to convert.
            ValueError: if the network is on another device than the engine's.
            ModuleNotFoundError: if the engine's package is not installed.
        """
        if self.name == "torch":
            return network
        if self._source is not network or self._compiled is None:
            self._compiled, self._source = self._convert(network), network
        return self._compiled

    def _convert(self, network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch module for engine {self.name}; set engine to torch")
        if self.name == "torchscript":
            return torchscript_model(network)
        if isinstance(network, torch.jit.ScriptModule):
            raise TypeError(f"network must not be TorchScript for engine {self.name}; set engine to torch")
        device = next(network.parameters()).device.type
        if device != "cpu":
            raise ValueError(f"device must be cpu for engine {self.name}, got {device}; set engine to torch")
        return _Compiled(_onnxruntime(network) if self.name == "onnxruntime" else _openvino(network))


def _onnxruntime(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx_model(network), options, providers=["CPUExecutionProvider"])

    def compute(image: torch.Tensor) -> torch.Tensor:
        (pred,) = session.run(None, {"image": image.contiguous().numpy()})
        return torch.from_numpy(pred)

    return compute


def _openvino(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(network, example_input=torch.zeros(EXAMPLE_SHAPE), input=[-1, 1, -1, -1])
    # without the hint it may compute in bfloat16 where the processor can
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def compute(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled([image.contiguous().numpy()])[0])

    return compute
