# SPDX-License-Identifier: Apache-2.0
"""Mutation tests: do the tests notice when an equation changes?

``python -m tools.mutate`` makes one small change at a time (a term, a sign, a weight, a detach, a modality) to losses,
training, patches, the operator and the transforms, in a temporary copy, and runs the matching tests. A mutant on which
no test fails has survived, and the exit status is 1. mutmut cannot drop a term or a detach, or take the other modality.
The faults of :data:`FAULTS` come first, one at a time and all together.

Every result is recorded at once, and the next run continues from the record: a mutant that was killed is not run again
while the code of its file is unchanged; a survivor is. ``--seconds`` ends a run early. Delete the record to start from
scratch.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import monai.engines  # noqa: F401  what the tests need is imported once: children are forked
import nibabel  # noqa: F401
import pytest
import torch
import torchvision  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
Row: TypeAlias = tuple[str, int, str, str]  # file, line, change, result
TESTS = {
    "bundle/scripts/losses/self_reconstruction.py": "tests/losses/test_reconstruction.py",
    "bundle/scripts/losses/cross_cycle.py": "tests/losses/test_reconstruction.py",
    "bundle/scripts/losses/latent.py": "tests/losses/test_reconstruction.py",
    "bundle/scripts/losses/data_consistency.py": "tests/losses/test_reconstruction.py",
    "bundle/scripts/losses/perceptual.py": "tests/losses/test_perceptual.py",
    "bundle/scripts/losses/features.py": "tests/losses/test_perceptual.py",
    "bundle/scripts/losses/restoration.py": "tests/losses/test_restoration.py",
    "bundle/scripts/losses/adversarial.py": "tests/losses/test_adversarial.py",
    "bundle/scripts/losses/disentanglement.py": "tests/losses/test_disentanglement.py",
    "bundle/scripts/networks/citnet.py": "tests/networks/test_citnet.py",
    "bundle/scripts/training/stage3.py": "tests/training/test_stage3_step.py",
    "bundle/scripts/training/stage2.py": "tests/training/test_stage2_step.py",
    "bundle/scripts/training/acquisition.py": "tests/training/test_acquisition.py",
    "bundle/scripts/training/ema.py": "tests/training/test_parts.py",
    "bundle/scripts/training/clip.py": "tests/training/test_parts.py",
    "bundle/scripts/training/autocast.py": "tests/training/test_parts.py",
    "bundle/scripts/training/metrics.py": "tests/training/test_parts.py",
    "bundle/scripts/training/budget.py": "tests/training/test_parts.py",
    "bundle/scripts/training/batches.py": "tests/training/test_parts.py",
    "bundle/scripts/training/handlers.py": "tests/training/test_parts.py",
    "bundle/scripts/training/collapse.py": "tests/training/test_collapse.py",
    "bundle/scripts/training/curves.py": "tests/training/test_watching.py",
    "bundle/scripts/training/watch.py": "tests/training/test_watching.py",
    "bundle/scripts/training/gradients.py": "tests/training/test_watching.py",
    "bundle/scripts/training/pictures.py": "tests/training/test_watching.py",
    "bundle/scripts/training/checkpoint.py": "tests/training/test_checkpoint.py",
    "bundle/scripts/training/weights.py": "tests/training/test_checkpoint.py",
    "bundle/scripts/data/patches.py": "tests/data/test_patches.py",
    "bundle/scripts/degradation.py": "tests/test_degradation.py",
    "bundle/scripts/transforms/consistency.py": "tests/transforms/test_consistency.py",
    "bundle/scripts/transforms/contrast.py": "tests/transforms/test_contrast.py",
    "bundle/scripts/transforms/degrade.py": "tests/transforms/test_degrade.py",
    "bundle/scripts/transforms/envelope.py": "tests/inference/test_envelope.py",
    "bundle/scripts/transforms/grid.py": "tests/transforms/test_grid.py",
    "bundle/scripts/transforms/intensity.py": "tests/transforms/test_intensity.py",
    "bundle/scripts/transforms/load.py": "tests/transforms/test_load_save.py",
    "bundle/scripts/transforms/maps.py": "tests/transforms/test_maps.py",
    "bundle/scripts/transforms/orient.py": "tests/transforms/test_orient.py",
    "bundle/scripts/transforms/patch.py": "tests/transforms/test_patch.py",
    "bundle/scripts/transforms/plain.py": "tests/transforms/test_plain.py",
    "bundle/scripts/transforms/save.py": "tests/transforms/test_load_save.py",
    "bundle/configs/train_stage3.json": "tests/training/test_stage3_step.py",
    "bundle/configs/stage3_paper.json": "tests/training/test_stage3_step.py",
}
# Faults that the tests once missed, even all at once: (file, original text, replacement).
FAULTS = {
    "the CT term dropped": (
        "bundle/scripts/training/stage2.py",
        'loss = losses["loss_mr"] + engine.anchor_weight *',
        'loss = losses["loss_mr"] + 0 * engine.anchor_weight *',
    ),
    "the in-plane label negated": (
        "bundle/scripts/training/stage2.py",
        'return batch["mr_image"], batch["mr_label"]',
        'return batch["mr_image"], -batch["mr_label"]',
    ),
    "the teachers ignored": (
        "bundle/scripts/training/stage2.py",
        "teacher = network if self.teacher is None else self.teacher",
        "teacher = network",
    ),
    "no clipping": (
        "bundle/scripts/training/clip.py",
        "torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)",
        "pass",
    ),
    "the validation's sign flipped": (
        "bundle/scripts/training/metrics.py",
        "_mse(cubic, label) / _mse(pred[:, :1], label)",
        "_mse(pred[:, :1], label) / _mse(cubic, label)",
    ),
    "the period monitor zeroed": (
        "bundle/scripts/training/collapse.py",
        "period_peak(images, self.probe.scale_factor)",
        "0.0",
    ),
}
# (part of the source line, change): why nothing observable changes.
EQUIVALENT = {
    ("features.update(zip(group, found.split(len(ct)), strict=True))", "True -> False"): "as many parts as images",
    ("features.update(zip(group, found.split(len(ct)), strict=True))", "ct -> mr"): "MR and CT batch are equally long",
    ("if mr.shape[2] % 4 or mr.shape[3] % 4", "mr -> ct"): "both have one shape, checked in the line before",
    ("non_blocking: bool = False", "False -> True"): "copies on a CPU never block",
    ("round(float(ratio), 4) for ratio", "4 -> 5"): "rounding only keeps the operator's cache short",
    ("length=count, seed=0,", "0 -> 1"): "another fixed set of slices serves as well",
    ("torch.cuda.synchronize(device)", "torch.cuda.synchronize(device) -> pass"): "only a GPU's clock needs it",
    ("zip(groups, self.rates, strict=True)", "True -> False"): "the rates are those groups'",
    ('output["label"], strict=True', "True -> False"): "as many labels as images",
    ("pred[:1].float(), label", "pred[:1].float() -> pred[:1]"): "torch.cat takes the widest of its dtypes",
    ("torch.cat(list(rows.float().cpu())", "rows.float() -> rows"): "drawn in float32, without mixed precision",
    (
        'mr = self.network(self.batch["mr_image"]',
        "self.network(self.batch['mr_image'], *told(self.batch, 'mr'))[:, :1].float() -> "
        "self.network(self.batch['mr_image'], *told(self.batch, 'mr'))[:, :1]",
    ): "drawn in float32, without mixed precision",
    ("self.scale_factors(np.random.default_rng([self.seed, 1,", "1 -> 2"): "another stream of draws serves as well",
    ("int(rng.integers(2**31))", "2 -> 3"): "another range of seeds serves as well",
    ("int(rng.integers(2**31))", "31 -> 32"): "another range of seeds serves as well",
    ("dict.fromkeys(volumes, 1.0)", "1.0 -> 2.0"): "only the ratios of the weights count",
    ("(tensor.float() for tensor in output)", "tensor.float() -> tensor"): "the inferer answers in float32 already",
}
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And, ast.Gt: ast.LtE, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
NAMES = {"l1_loss": "mse_loss", "mse_loss": "l1_loss", "real": "fake", "fake": "real", "mr": "ct", "ct": "mr"}
DROPPED_CALLS = {"detach", "square", "float", "eval"}  # x.call() becomes x


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the changes of a node of the syntax tree."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        yield _with(node, op=OPERATORS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult | ast.Div):
        yield from (node.left, node.right)  # drop a term or a factor
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield _with(node, ops=[OPERATORS[type(node.ops[0])]()])
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    if isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_CALLS:
        yield node.func.value
    if isinstance(node, ast.Dict) and len(node.keys) > 1 and all(node.keys):
        for i in range(len(node.keys)):
            yield _with(node, keys=node.keys[:i] + node.keys[i + 1 :], values=node.values[:i] + node.values[i + 1 :])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and "super()" not in ast.unparse(node):
        yield ast.Pass()
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        field = "id" if isinstance(node, ast.Name) else "attr"
        words = getattr(node, field).split("_")
        other = NAMES.get("_".join(words)) or "_".join(NAMES[w] if w in ("mr", "ct") else w for w in words)
        if other.split("_") != words:
            yield _with(node, **{field: other})


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _inside(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Nodes of the body, without messages, types and refusals."""
    stack: list[ast.AST] = [*function.body, *function.args.defaults]
    while stack:
        node = stack.pop(0)
        yield node
        if isinstance(node, ast.AnnAssign):
            stack += [node.value] if node.value else []
        elif not isinstance(node, ast.Raise | ast.JoinedStr):
            stack += ast.iter_child_nodes(node)


def mutants(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, description and full text of every mutant of a file."""
    text = path.read_text()
    if path.suffix == ".json":
        for match in re.finditer(r'("(?:lambda|judge|detach)_\w+": )([\d.]+|true|false)', text):
            switched = {"true": "false", "false": "true"}.get(match[2])
            changed = match[1] + (switched or str(float(match[2]) + 1))
            yield text[: match.start()].count("\n") + 1, f"{match[0]} -> {changed}", text.replace(match[0], changed)
        return
    tree = ast.parse(text)
    for node in ast.walk(tree):  # words do not count: changed comments leave the mutants unchanged
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    seen = set()
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        known = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
        known |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
        for node in _inside(function):
            for new in changes(node):
                if isinstance(new, ast.Name) and isinstance(node, ast.Name) and new.id not in known:
                    continue  # an undefined name fails in any test
                mutated = ast.unparse(_Replace(node, new).visit(copy.deepcopy(tree, {id(node): node})))
                if mutated in seen:  # a nested function is visited twice
                    continue
                seen.add(mutated)
                gone = []
                if isinstance(node, ast.Dict) and isinstance(new, ast.Dict):
                    gone = [key for key in node.keys if key and key not in new.keys]
                change = f"without {_short(gone[0])}" if gone else f"{_short(node)} -> {_short(new)}"
                yield getattr(node, "lineno", 0), change, mutated


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else f"{text[:50]} ... {text[-35:]}"


def _run_tests(folder: Path, tests: str) -> None:
    """Run the tests in a forked child; the exit status is pytest's, or 99 if it imported another copy of the code."""
    os.chdir(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path = [p for p in sys.path if Path(p).resolve() not in (ROOT, ROOT / "bundle", Path.cwd())]
    sys.dont_write_bytecode = True  # the cache cannot distinguish two mutants of the same second
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-m", "not shared"]
    status = pytest.main([*options, tests])
    seen = getattr(sys.modules.get("scripts"), "__file__", None) or folder
    os._exit(int(status) if Path(seen).is_relative_to(folder) else 99)


def killed(folder: Path, tests: str, timeout_s: float) -> bool:
    """Whether a test fails or does not end in time.

    Raises:
        RuntimeError: if the tests did not run, or ran on another copy.
    """
    child = multiprocessing.get_context("fork").Process(target=_run_tests, args=(folder, tests))
    child.start()
    child.join(timeout_s)
    if child.is_alive():
        child.kill()
        child.join()
    if child.exitcode in (3, 4, 5, 99):
        raise RuntimeError(f"{tests} did not run on the copy, exit status {child.exitcode}")
    return child.exitcode != 0


def faults(folder: Path, timeout_s: float) -> Iterator[Row]:
    """Rows of the table for every fault of :data:`FAULTS` separately, then for all of them together."""
    for names in [[name] for name in FAULTS] + [list(FAULTS)]:
        originals: dict[Path, str] = {}
        for name in names:
            file, old, new = FAULTS[name]
            text = (folder / file).read_text()
            if text.count(old) != 1:
                raise SystemExit(f"FAULTS must name text that stands once in {file}, got {text.count(old)} of {old!r}")
            originals.setdefault(folder / file, text)
            (folder / file).write_text(text.replace(old, new))
        tests = sorted({TESTS[str(path.relative_to(folder))] for path in originals})
        # together, the tests of each file must notice, since those of one file say nothing about the others
        noticed = all(killed(folder, test, timeout_s) for test in tests)
        for path, text in originals.items():
            path.write_text(text)
        yield "faults", 0, " + ".join(names), "killed" if noticed else "survived"


class Record:
    """Results by mutant, one line of JSON each, so that a run that is cut off leaves a valid file.

    Args:
        path: the file; made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.results = dict(json.loads(line) for line in lines)

    def add(self, key: str, result: str) -> None:
        """Add a result."""
        self.results[key] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps([key, result]) + "\n")


def mutants_of(folder: Path, file: str, timeout_s: float, record: Record, end: float) -> Iterator[Row]:
    """Rows of the table for every mutant of a file.

    Args:
        folder: the copy.
        file: path of the source file in it.
        timeout_s: seconds after which a mutant counts as killed.
        record: results of earlier runs, to which those of this run are added.
        end: value of ``time.monotonic()`` after which no further mutant is run.

    Raises:
        SystemExit: if the tests fail on the unchanged file.
    """
    original = folder / file
    text = original.read_text()
    checked = False
    for line, change, mutant in mutants(original):
        key = hashlib.sha256(mutant.encode()).hexdigest()[:16]
        result = record.results.get(key, "not run")
        if result != "killed" and time.monotonic() < end:
            if not checked and killed(folder, TESTS[file], timeout_s):
                raise SystemExit(f"{TESTS[file]} must pass before anything is changed; run it alone to see the failure")
            checked = True
            original.write_text(mutant)
            result = "killed" if killed(folder, TESTS[file], timeout_s) else "survived"
            original.write_text(text)
            record.add(key, result)
        for (part, equivalent), reason in EQUIVALENT.items():
            if result == "survived" and part in text.splitlines()[line - 1] and equivalent == change:
                result = f"equivalent: {reason}"
        yield file.removeprefix("bundle/"), line, change, result


def main() -> int:
    """Run all mutants, and write a table to stdout and, if one is named, to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", nargs="*", help="only source files whose path holds one of these, or 'faults'")
    parser.add_argument("--output", type=Path, help="file for the table of mutants, as Markdown")
    parser.add_argument("--timeout", type=float, default=120, help="seconds after which a mutant counts as killed")
    parser.add_argument("--seconds", type=float, default=math.inf, help="seconds after which no further mutant is run")
    parser.add_argument("--record", type=Path, default=ROOT / "out" / "mutation.jsonl", help="results of earlier runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()
    end = time.monotonic() + options.seconds
    record = Record(options.record)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for part in ("bundle", "phantom", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "models"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if not options.files or "faults" in options.files:
            for row in faults(folder, options.timeout):
                rows.append(row)
                print(f"{row[3]:10} {row[2]}", flush=True)
        for file in (file for file in TESTS if not options.files or any(part in file for part in options.files)):
            for row in mutants_of(folder, file, options.timeout, record, end):
                rows.append(row)
                if row[3] == "survived":
                    print(f"{row[3]:10} {file}:{row[1]}  {row[2]}", flush=True)
    print(summary := table(rows))
    if options.output:
        lines = [f"| {f}:{n} | `{c.replace('|', '/')}` | {r} |" for f, n, c, r in rows]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        mutants_table = "\n".join(["| where | change | result |", "| --- | --- | --- |", *lines])
        options.output.write_text(f"{summary}\n\n{mutants_table}\n")
    return int(any(row[3] in ("survived", "not run") for row in rows))


def table(rows: list[Row]) -> str:
    """Number of mutants by file and result, as Markdown; the table of docs/mutation.md."""
    kinds = ("killed", "equivalent", "survived", "not run")
    lines = [f"| file | mutants | {' | '.join(kinds)} |", "|---" * (2 + len(kinds)) + "|"]
    for file in [*dict.fromkeys(row[0] for row in rows), "all"]:
        results = [row[3] for row in rows if file in (row[0], "all")]
        counts = [len(results), *(sum(result.startswith(kind) for result in results) for kind in kinds)]
        lines.append(f"| {file} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
