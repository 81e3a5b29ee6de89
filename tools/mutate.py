# SPDX-License-Identifier: Apache-2.0
"""Do the tests notice when an equation changes?

``python -m tools.mutate`` changes losses, CITNet's pass and the step of stage 3 one small thing at a time (a term, a
sign, a weight, a detach, a modality), in a temporary copy, and runs the matching tests. A mutant that no test fails on
has survived, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel  # noqa: F401  what every mutant needs, imported once: children are forked
import pytest
import torch
import torchvision  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
STEP = ["tests/training/test_stage3_step.py"]
TESTS = {
    "bundle/scripts/losses/adversarial.py": ["tests/losses/test_adversarial.py"],
    "bundle/scripts/losses/cross_cycle.py": ["tests/losses/test_reconstruction.py"],
    "bundle/scripts/losses/data_consistency.py": ["tests/losses/test_reconstruction.py"],
    "bundle/scripts/losses/disentanglement.py": ["tests/losses/test_disentanglement.py"],
    "bundle/scripts/losses/features.py": ["tests/losses/test_perceptual.py"],
    "bundle/scripts/losses/latent.py": ["tests/losses/test_reconstruction.py"],
    "bundle/scripts/losses/perceptual.py": ["tests/losses/test_perceptual.py"],
    "bundle/scripts/losses/self_reconstruction.py": ["tests/losses/test_reconstruction.py"],
    "bundle/scripts/networks/citnet.py": ["tests/networks/test_citnet.py"],
    "bundle/scripts/training/stage3.py": STEP,
    "bundle/configs/train_stage3.json": STEP,
}
# Nothing that can be observed changes, and why; "file: before -> after" as the table prints it.
EQUIVALENT: dict[str, str] = {}
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And, ast.Gt: ast.LtE, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
NAMES = {"l1_loss": "mse_loss", "mse_loss": "l1_loss", "real": "fake", "fake": "real"}
DROPPED_CALLS = {"detach", "square", "mean", "float", "eval"}  # x.call() becomes x


def mutate(node: ast.AST) -> Iterator[ast.AST]:
    """What the node may turn into."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        yield _with(node, op=SWAPS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        yield from (node.left, node.right)  # a term or a factor is gone
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield _with(node, ops=[SWAPS[type(node.ops[0])]()])
        if isinstance(node.ops[0], ast.Gt | ast.GtE | ast.Lt | ast.LtE):  # the border goes to the other side
            border = {ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Lt: ast.LtE, ast.LtE: ast.Lt}
            yield _with(node, ops=[border[type(node.ops[0])]()])
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    if isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_CALLS:
        yield node.func.value
    if isinstance(node, ast.Dict) and len(node.keys) > 1:
        for i in range(len(node.keys)):
            yield _with(node, keys=node.keys[:i] + node.keys[i + 1 :], values=node.values[:i] + node.values[i + 1 :])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        field = "id" if isinstance(node, ast.Name) else "attr"
        name = getattr(node, field)
        other = NAMES.get(name) or re.sub(r"(?<![a-z])(mr|ct)(?![a-z0-9])", lambda m: _other(m[0]), name)
        if other != name:
            yield _with(node, **{field: other})


def mutants(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, description and full text of every mutant of a file."""
    text = path.read_text()
    if path.suffix == ".json":
        for match in re.finditer(r'"lambda_\w+": ([\d.]+)', text):
            changed = f"{float(match[1]) + 1}"
            before, after = match[0], match[0].removesuffix(match[1]) + changed
            yield text[: match.start()].count("\n") + 1, f"{before} -> {after}", text.replace(before, after)
        return
    for place, node in enumerate(ast.walk(ast.parse(text))):
        for index, new in enumerate(mutate(node)):
            tree = ast.parse(text)
            target = list(ast.walk(tree))[place]
            if not _in_function(tree, target):
                continue
            new = list(mutate(target))[index]
            before, after = ast.unparse(target), ast.unparse(new)
            changed_tree = _Replace(target, new).visit(tree)
            yield target.lineno, f"{_short(before)} -> {_short(after)}", ast.unparse(changed_tree)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _other(domain: str) -> str:
    return {"mr": "ct", "ct": "mr"}[domain]


def _in_function(tree: ast.AST, target: ast.AST) -> bool:
    """Inside a function's body and not in a message, a type or a refusal."""
    skipped = (ast.Raise, ast.JoinedStr)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        stack: list[ast.AST] = list(function.body) + list(function.args.defaults)
        while stack:
            node = stack.pop()
            if node is target:
                return True
            if isinstance(node, ast.AnnAssign):
                stack += [node.value] if node.value else []
            elif not isinstance(node, skipped):
                stack += ast.iter_child_nodes(node)
    return False


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 70 else text[:50] + " ... " + text[-15:]


def _tests_fail(folder: Path, tests: list[str]) -> None:
    """In a forked child: exit 0 where all tests pass."""
    os.chdir(folder)
    sys.path = [p for p in sys.path if not Path(p or ".").resolve().is_relative_to(ROOT) or ".venv" in p]
    sys.dont_write_bytecode = True  # two mutants of one second look alike to the cache
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not shared", *tests])
    scripts = sys.modules.get("scripts")
    strange = scripts is not None and not Path(scripts.__file__ or "").is_relative_to(folder)
    os._exit(99 if strange else int(status))


def killed(folder: Path, tests: list[str], timeout_s: float) -> bool:
    """Whether a test fails, or does not end.

    Raises:
        RuntimeError: if the tests saw another copy of the code.
    """
    child = multiprocessing.get_context("fork").Process(target=_tests_fail, args=(folder, tests))
    child.start()
    child.join(timeout_s)
    if child.is_alive():
        child.kill()
        child.join()
    if child.exitcode in (3, 4, 5, 99):
        raise RuntimeError(f"the tests {tests} did not run on the copy, exit status {child.exitcode}")
    return child.exitcode != 0


def main() -> int:
    """Run all mutants; a table on stdout, and in a file where one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", default="", help="only source files whose path holds this text")
    parser.add_argument("--output", type=Path, help="write the table of mutants there, as Markdown")
    parser.add_argument("--timeout", type=float, default=120, help="seconds after which a mutant counts as killed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, survived = [], 0
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(KeyboardInterrupt):
        folder = Path(name).resolve()
        for part in ("bundle/scripts", "bundle/configs", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for file, tests in TESTS.items():
            if options.files not in file:
                continue
            if killed(folder, tests, options.timeout):
                raise SystemExit(f"{tests} must pass before anything is changed; run them first")
            for line, change, text in mutants(ROOT / file):
                (folder / file).write_text(text)
                key = f"{Path(file).name}: {change}"
                result = "killed" if killed(folder, tests, options.timeout) else "survived"
                if result == "survived" and key in EQUIVALENT:
                    result = f"equivalent: {EQUIVALENT[key]}"
                survived += result == "survived"
                rows.append((file.removeprefix("bundle/"), line, change, result))
                print(f"{result:10} {file}:{line}  {change}", flush=True)
            shutil.copy(ROOT / file, folder / file)
    print(f"{len(rows)} mutants, {survived} survived")
    if options.output:
        table = ["| file | line | change | result |", "| --- | --- | --- | --- |"]
        table += [f"| {f} | {n} | `{c.replace('|', chr(92) + '|')}` | {r} |" for f, n, c, r in rows]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(table) + "\n")
    return int(survived > 0)


if __name__ == "__main__":
    raise SystemExit(main())
