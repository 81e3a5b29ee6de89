# SPDX-License-Identifier: Apache-2.0
"""What the Model Zoo's CI asks of a bundle, as far as it can be asked offline."""

import json
import re
import subprocess
import sys
from importlib.metadata import version

import jsonschema
import pytest
import torch
from monai.bundle import ConfigParser, verify_net_in_out

from tests.conftest import BUNDLE, ROOT, SHARED
from tools.format_json import formatted

METADATA = json.loads((BUNDLE / "configs" / "metadata.json").read_text())


@pytest.mark.shared
def test_metadata_is_valid_against_the_schema():
    schema = json.loads((SHARED / "schema" / "meta_schema_20240725.json").read_text())
    jsonschema.validate(METADATA, schema)
    assert METADATA["schema"].endswith("meta_schema_20240725.json")


def test_metadata_has_what_the_schema_requires():
    """The same without the schema file, which is not part of this project."""
    required = [
        *["schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"],
        *["task", "description", "authors", "copyright", "network_data_format", "changelog", "intended_use"],
    ]
    assert not [key for key in required if not METADATA.get(key)]
    for io in ("inputs", "outputs"):
        for tensor in METADATA["network_data_format"][io].values():
            assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= tensor.keys()


def test_versions_are_the_pinned_ones():
    files = ("requirements.txt", "requirements-train.txt")
    text = "\n".join((ROOT / name).read_text() for name in files)
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.M))
    stated = {
        "monai": METADATA["monai_version"],
        "torch": METADATA["pytorch_version"],
        "numpy": METADATA["numpy_version"],
        **METADATA["required_packages_version"],
    }
    assert stated == pins
    assert {name: version(name).split("+")[0] for name in pins} == pins
    constraints = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    lower = {name.lower().replace("_", "-"): pin for name, pin in constraints.items()}
    assert {name: lower[name.lower().replace("_", "-")] for name in pins} == pins


def test_constraints_record_no_index_address():
    for name in ("constraints.txt", *(path.name for path in ROOT.glob("requirements*.txt"))):
        assert not re.search(r"://|--index|--find-links|-f ", (ROOT / name).read_text()), name


def test_changelog_and_version_are_in_step():
    assert METADATA["version"] in METADATA["changelog"]
    headings = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings == list(METADATA["changelog"])[::-1]
    assert headings[0] == METADATA["version"]


def test_licences_are_equal_and_apache():
    assert (ROOT / "LICENSE").read_bytes() == (BUNDLE / "LICENSE").read_bytes()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize(
    "name", ["LICENSE", "configs/inference.json", "models/model.pt", "docs/README.md", "docs/data_license.txt"]
)
def test_files_the_zoo_looks_for(name):
    assert (BUNDLE / name).is_file()


def test_no_file_needs_large_files_yml():
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "bundle"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    for name in filter(None, tracked.split("\0")):
        assert (ROOT / name).stat().st_size < 25e6, name


def test_network_in_and_out(tmp_path):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        n=4,
        p=2,
    )


def test_network_output_has_the_stated_grid():
    """`verify_net_in_out` never looks at the spatial shape."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def")
    inputs, outputs = (METADATA["network_data_format"][io] for io in ("inputs", "outputs"))

    def shape(tensor, sizes):
        return [sizes[name] for name in tensor["spatial_shape"]]

    for sizes in ({"n": 8, "m": 24}, {"n": 12, "m": 29}):
        result = network(
            torch.zeros(2, inputs["image"]["num_channels"], *shape(inputs["image"], sizes)),
            torch.linspace(0, sizes["n"] - 1, *shape(inputs["positions"], sizes)),
            torch.zeros(2, inputs["condition"]["num_channels"]),
        )
        assert list(result.shape) == [2, outputs["pred"]["num_channels"], *shape(outputs["pred"], sizes)]


def test_shipped_weights_load_and_nothing_is_unpickled():
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def")
    state = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    network.load_state_dict(state)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.slow
def test_torchscript_export_as_the_zoo_does_it(tmp_path):
    exported = tmp_path / "model.ts"
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "ckpt_export", "--net_id", "network_def", "--filepath", exported,
         "--ckpt_file", "models/model.pt", "--meta_file", "configs/metadata.json",
         "--config_file", "configs/inference.json"],
        cwd=BUNDLE, check=True, capture_output=True,
    )  # fmt: skip
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    image = torch.rand(2, 1, 40, 12) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(exported)(image), network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", sorted(p.name for p in (BUNDLE / "configs").glob("*.json")))
def test_json_is_formatted(path):
    text = (BUNDLE / "configs" / path).read_text()
    assert text == formatted(text)


def test_no_absolute_path_in_configs():
    for path in (BUNDLE / "configs").glob("*.json"):
        assert not re.search(r'"/(home|root|work|tmp|mnt|Users|data)', path.read_text()), path.name
