# SPDX-License-Identifier: Apache-2.0
"""Engines that compute the network: PyTorch itself, or a form to which it is converted when a run starts.

The network in memory is converted, including its weights. So there is no exported file that could disagree with
``model.pt``, and an adapted network is converted like any other. Figures: ``docs/exports.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["ENGINES", "Engine", "onnx_model", "torchscript_model"]

ENGINES = ("torch", "torchscript", "onnxruntime", "openvino")
# engines that are not PyTorch: autocast to the engine's own name of the precision
PRECISIONS: dict[str, dict[str | None, str]] = {
    "onnxruntime": {None: "f32"},
    "openvino": {None: "f32", "bfloat16": "bf16"},
}
Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _example(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs for tracing a network. All sizes except the number of channels are dynamic, so none of them is 0 or 1."""
    positions = torch.arange(64, device=device, dtype=torch.float32) / 4 - 0.375
    condition = torch.tensor([[0.25, 1.0, 0.4, 0.25]], device=device)
    return torch.zeros((2, 1, 24, 16), device=device), positions, condition


def torchscript_model(network: nn.Module) -> torch.jit.ScriptModule:
    """The network as TorchScript, for inputs of any size."""
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.script(network.eval()))


def onnx_model(network: nn.Module) -> bytes:
    """The network as a serialised ONNX model for any grid.

    Inputs ``image`` ``(B, 1, H, n)``, ``positions`` ``(N,)`` and ``condition`` ``(1, 4)``, output ``pred``; see
    :class:`scripts.networks.srnet.SRNet`. B, H, n and N are dynamic.

    Needs the packages ``onnx`` and ``onnxscript``.
    """
    dynamic = torch.export.Dim.DYNAMIC
    program: Any = torch.onnx.export(
        network.eval(),
        _example(next(network.parameters()).device),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic}, {0: dynamic}, None),
        input_names=["image", "positions", "condition"],
        output_names=["pred"],
        verbose=False,
    )
    return program.model_proto.SerializeToString()


class _Compiled(nn.Module):
    """A converted network with the interface of the original."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, image: torch.Tensor, positions: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """As the network; see :class:`scripts.networks.srnet.SRNet`."""
        return self.compute(image, positions, condition)


class Engine:
    """Callable ``network -> network`` for :class:`scripts.inference.inferer.ThroughPlaneInferer`.

    Args:
        name: one of :data:`ENGINES`. ``torch`` changes nothing; ``onnxruntime`` and ``openvino`` need the package of
            that name and run on the CPU.
        autocast: dtype name for mixed precision, or ``None`` for float32. With PyTorch the inferer applies
            it; ``openvino`` can compute in ``bfloat16``, ``onnxruntime`` cannot.

    Raises:
        ValueError: for any other name, or a precision that the engine does not know.
    """

    def __init__(self, name: str = "torch", autocast: str | None = None) -> None:
        if name not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {name!r}; correct the id")
        self.name = name
        if not self.is_torch and autocast not in PRECISIONS[name]:
            raise ValueError(
                f"autocast must be {_names(name)} for engine {name}, got {autocast!r}; set engine to torch"
            )
        self.autocast = autocast
        self._source: Callable[..., torch.Tensor] | None = None
        self._compiled: Callable[..., torch.Tensor] | None = None

    @property
    def is_torch(self) -> bool:
        """Whether PyTorch computes, so that its devices and its mixed precision apply."""
        return self.name in ("torch", "torchscript")

    def __call__(self, network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Convert a network. For the same object, the earlier conversion is returned.

        Raises:
            TypeError: if there is nothing to convert.
            ValueError: if the network is on another device than the engine's, or takes a guide.
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
        if getattr(network, "takes_guide", False):
            raise ValueError(f"engine must be torch for {type(network).__name__}, got {self.name}; set engine to torch")
        if self.name == "torchscript":
            return torchscript_model(network)
        if isinstance(network, torch.jit.ScriptModule):
            raise TypeError(f"network must not be TorchScript for engine {self.name}; set engine to torch")
        device = next(network.parameters()).device.type
        if device != "cpu":
            raise ValueError(f"device must be cpu for engine {self.name}, got {device}; set engine to torch")
        if self.name == "onnxruntime":
            return _Compiled(_onnxruntime(network))
        return _Compiled(_openvino(network, PRECISIONS[self.name][self.autocast]))


def _names(engine: str) -> str:
    return " or ".join("null" if name is None else name for name in PRECISIONS[engine])


def _onnxruntime(network: nn.Module) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx_model(network), options, providers=["CPUExecutionProvider"])

    names = [node.name for node in session.get_inputs()]  # the ONNX model of RDN has no condition

    def compute(*inputs: torch.Tensor) -> torch.Tensor:
        given = dict(zip(("image", "positions", "condition"), inputs, strict=True))
        (pred,) = session.run(None, {name: given[name].contiguous().numpy() for name in names})
        return torch.from_numpy(pred)

    return compute


def _openvino(network: nn.Module, precision: str) -> Compute:
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(network, example_input=_example(torch.device("cpu")))
    # without the hint, OpenVINO may compute in bfloat16 on a processor that supports it
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def compute(*inputs: torch.Tensor) -> torch.Tensor:
        given = [tensor.contiguous().numpy() for tensor in inputs]
        return torch.from_numpy(compiled(given[: len(compiled.inputs)])[0])

    return compute
