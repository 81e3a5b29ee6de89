# SPDX-License-Identifier: Apache-2.0
"""Build ``dist/<name>_v<version>.zip``: the bundle as the Model Zoo and the hosts expect it, with its exports.

The zip holds all files under ``bundle/`` that git does not ignore, below one folder named for modality and task. It
also holds the TorchScript and ONNX forms of ``model.pt``, which are made here and compared with it. The same commit
gives the same bytes, except for ``model.ts``, whose archive PyTorch does not write reproducibly.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from scripts.degradation import SliceProfileOperator
from scripts.files import sha256, whole
from scripts.geometry import SliceGrid
from scripts.inference.engines import onnx_model
from scripts.training.weights import load_weights
from torch import nn

from tools.run_bundle import ROOT

__all__ = ["NAME", "build", "export", "require_clean_tree", "zip_path"]

NAME = "mr_thick_slice_super_resolution"
LISTING = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "bundle")
TOLERANCE = 1e-5  # of the unit range [-1, 1]


def git(*arguments: str, root: Path = ROOT) -> str:
    """Output of a git command."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def require_clean_tree(root: Path = ROOT) -> None:
    """End the process if there are changed or new files.

    Raises:
        SystemExit: with the number of these files.
    """
    changed = git("status", "--porcelain", root=root).splitlines()
    if changed:
        raise SystemExit(f"the tree must be clean, got {len(changed)} changed or new files; commit or remove them")


def zip_path(output: Path, root: Path = ROOT) -> Path:
    """Path of the release, with name and version as the Zoo writes them."""
    version = json.loads((root / "bundle" / "configs" / "metadata.json").read_text())["version"]
    return output / f"{NAME}_v{version}.zip"


def export(bundle: Path) -> None:
    """Write ``models/model.ts`` (as the Zoo's CI does) and ``models/model.onnx``, and compare both with ``model.pt``.

    Raises:
        SystemExit: if one of them gives a different result.
    """
    command = [sys.executable, "-m", "monai.bundle", "ckpt_export", "--net_id", "network_def"]
    command += ["--filepath", "models/model.ts", "--ckpt_file", "models/model.pt"]
    command += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    subprocess.run(command, cwd=bundle, check=True, capture_output=True)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    network: nn.Module = parser.get_parsed_content("network_def").eval()
    load_weights(network, str(bundle / "models" / "model.pt"), "the release")
    network.requires_grad_(False)
    (bundle / "models" / "model.onnx").write_bytes(onnx_model(network))
    for name, computed in (("model.ts", _torchscript(bundle)), ("model.onnx", _onnx(bundle))):
        for shape, factor in (((1, 1, 40, 12), 4.0), ((3, 1, 21, 30), 2.3)):
            operator = SliceProfileOperator(SliceGrid.over_slab(shape[-1], factor))
            image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
            positions, condition = operator.told(1 / factor)
            inputs = {"image": image, "positions": positions, "condition": condition}
            with torch.no_grad():
                error = float((computed(**inputs) - network(**inputs)).abs().max())
            if not error < TOLERANCE:
                raise SystemExit(f"{name} must equal model.pt to {TOLERANCE:g}, got a difference of {error:.1e}")


def _torchscript(bundle: Path) -> torch.jit.ScriptModule:
    return torch.jit.load(bundle / "models" / "model.ts")


def _onnx(bundle: Path) -> Callable[..., torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle / "models" / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda **inputs: torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])


def build(output: Path, root: Path = ROOT) -> Path:
    """Build the release from the present files, committed or not.

    Args:
        output: folder of the zip file.
        root: a checkout.

    Returns:
        Path of the zip file; one of the same version is replaced.
    """
    target = zip_path(output, root)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / NAME
        for name in filter(None, git(*LISTING, root=root).split("\0")):
            copy = bundle / Path(name).relative_to("bundle")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy)
        export(bundle)
        shutil.rmtree(bundle / "eval", ignore_errors=True)
        with whole(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in bundle.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


def main() -> None:
    """Refuse a tree that is not clean, build, print name and digest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    require_clean_tree()
    path = build(arguments.output)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  sha256 {sha256(path)}")


if __name__ == "__main__":
    main()
