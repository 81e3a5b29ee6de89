# SPDX-License-Identifier: Apache-2.0
"""PyTorch, TorchScript, ONNX Runtime and OpenVINO compute the same network."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scripts.inference.engines import ENGINES, Engine, onnx_model
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.srnet import SRNet

from tests.conftest import TINY_NETWORK, oriented_scan, smooth_volume, told

K = 2.5
TOLERANCE = 1e-5  # of the unit range [-1, 1]; a 12-bit scan has steps of 5e-4


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = SRNet(**{**TINY_NETWORK, "blocks": 2, "features": 6}).eval()
    network.reconstruct.weight.data *= 10
    return network.requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_engines_agree_at_every_size(network, name):
    converted = Engine(name)(network)
    for shape in ((1, 1, 8, 4), (3, 1, 37, 19), (1, 1, 160, 11), (2, 1, 16, 30)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(shape[2])) * 2 - 1
        acquisition = told(shape[3], K)
        pred = converted(image, *acquisition)
        assert pred.shape == (shape[0], 2, shape[2], int(K * shape[3] + 0.5))
        assert pred.dtype == torch.float32
        torch.testing.assert_close(pred, network(image, *acquisition), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_volume_is_the_same_with_every_engine(network, name):
    scan = oriented_scan(smooth_volume((30, 26, 7)) / 500 - 1, K)[None]
    settings = {"profile": "gaussian", "batch_pixels": 900, "halo": 4, "progress": False}
    expected = ThroughPlaneInferer(**settings)(scan, network)
    found = ThroughPlaneInferer(**settings, engine=Engine(name))(scan, network)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES[1:])
def test_one_conversion_serves_all_scans_until_the_weights_are_others(network, name):
    engine = Engine(name)
    first = engine(network)
    assert engine(network) is first
    other = SRNet(**{**TINY_NETWORK, "features": 3}).eval().requires_grad_(False)
    image = torch.rand(1, 1, 20, 8)
    torch.testing.assert_close(engine(other)(image, *told(8, K)), other(image, *told(8, K)), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_openvino_in_bfloat16_differs_by_its_rounding_alone(network):
    image = torch.rand(2, 1, 40, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = Engine("openvino", "bfloat16")(network)(image, *told(12, K))
    difference = (found - network(image, *told(12, K))).abs().max()
    # eight bits of mantissa: 2^-8 of values near 1, added up over a few layers; a processor without them has float32
    assert difference < 0.05


@pytest.mark.slow
def test_results_stay_when_the_next_is_computed(network):
    """A runtime that hands out its own buffer would overwrite them."""
    for name in ENGINES:
        converted = Engine(name)(network)
        first = converted(torch.ones(1, 1, 16, 8), *told(8, K))
        kept = first.clone()
        converted(-torch.ones(1, 1, 16, 8), *told(8, K))
        torch.testing.assert_close(first, kept, atol=0, rtol=0)


@pytest.mark.slow
def test_onnx_model_says_which_axes_are_dynamic(network):
    import onnx

    model = onnx.load_from_string(onnx_model(network))
    onnx.checker.check_model(model)
    (image, positions, condition), (pred,) = model.graph.input, model.graph.output
    assert (image.name, positions.name, condition.name, pred.name) == ("image", "positions", "condition", "pred")
    for tensor, channels in ((image, 1), (pred, 2)):
        axes = tensor.type.tensor_type.shape.dim
        assert [bool(axis.dim_param) for axis in axes] == [True, False, True, True]
        assert axes[1].dim_value == channels
    assert [bool(axis.dim_param) for axis in positions.type.tensor_type.shape.dim] == [True]
    assert [axis.dim_value for axis in condition.type.tensor_type.shape.dim] == [1, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_do_not_report_their_use_to_their_makers(tmp_path, name):
    """What reports its use keeps a number of this machine in the home folder: there is none after a conversion."""
    home, program = tmp_path / "home", tmp_path / "program.py"
    home.mkdir()
    program.write_text(
        "import sys\n"
        "from scripts.inference.engines import Engine\n"
        "from scripts.networks.srnet import SRNet\n"
        "from tests.conftest import TINY_NETWORK, told\n"
        "import torch\n"
        "network = SRNet(**TINY_NETWORK).eval().requires_grad_(False)\n"
        "Engine(sys.argv[1])(network)(torch.rand(1, 1, 20, 8), *told(8, 2.5))\n"
    )
    environment = {
        **os.environ,
        "HOME": str(home),
        "MPLCONFIGDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    for variable in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    subprocess.run([sys.executable, program, name], env=environment, check=True)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_refusals(network, monkeypatch):
    with pytest.raises(ValueError, match=r"engine must be one of .*got 'tensorrt'"):
        Engine("tensorrt")
    with pytest.raises(ValueError, match="autocast must be null for engine onnxruntime, got 'bfloat16'"):
        Engine("onnxruntime", "bfloat16")
    with pytest.raises(ValueError, match="autocast must be null or bfloat16 for engine openvino, got 'float16'"):
        Engine("openvino", "float16")
    with pytest.raises(ValueError, match="autocast must be the engine's, None, got 'bfloat16'"):
        ThroughPlaneInferer("box", autocast="bfloat16", engine=Engine("openvino"))
    with pytest.raises(TypeError, match="must be a torch module for engine onnxruntime"):
        Engine("onnxruntime")(lambda image: image)
    with pytest.raises(TypeError, match="must not be TorchScript"):
        Engine("openvino")(torch.jit.script(network))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError):
        Engine("openvino")(network)
    assert np.isfinite(Engine("torch")(network)(torch.zeros(1, 1, 8, 8), *told(8, K)).numpy()).all()
