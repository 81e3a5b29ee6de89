# SPDX-License-Identifier: Apache-2.0
import copy
import json
import subprocess
import sys

import pytest

from benchmarks import guard
from benchmarks.guard import FIGURES, Figure, compare, worse
from tests.conftest import ROOT

UP = Figure(("a", "b"), higher_is_better=True, tolerance=0.1)
DOWN = Figure(("a", "b"), higher_is_better=False, tolerance=0.1, limit=3.0)


@pytest.mark.parametrize(
    ("figure", "now", "before", "verdict"),
    [
        (UP, 1.95, 2.0, "same"),
        (UP, 1.79, 2.0, "WORSE"),
        (UP, 2.3, 2.0, "better"),
        (UP, 2.3, None, "new"),
        (DOWN, 1.79, 2.0, "better"),
        (DOWN, 2.3, 2.0, "WORSE"),
        (DOWN, 3.1, 3.0, "BEYOND LIMIT"),
        (DOWN, 3.1, None, "BEYOND LIMIT"),
    ],
)
def test_verdicts(figure, now, before, verdict):
    assert figure.verdict(now, before) == verdict


@pytest.fixture
def baseline():
    return json.loads(guard.BASELINE.read_text())


def changed(report, figure, factor):
    result = copy.deepcopy(report)
    place = result
    for key in figure.path[:-1]:
        place = place[key]
    place[figure.path[-1]] *= factor
    return result


def test_the_committed_baseline_has_every_figure_within_its_limit(baseline):
    rows = compare(baseline, {})  # against nothing: only the limits that hold on every machine can fail
    assert [row["figure"] for row in rows] == list(FIGURES)
    assert {row["verdict"] for row in rows} == {"new"}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_can_raise_the_alarm(baseline, figure):
    factor = 1 - 1.5 * figure.tolerance if figure.higher_is_better else 1 + 1.5 * figure.tolerance
    rows = compare(changed(baseline, figure, factor), baseline)
    assert worse(rows)
    assert [row["figure"] for row in rows if row["verdict"].isupper()] == [figure]


def test_command_ends_with_1_if_something_got_worse(baseline, tmp_path, monkeypatch, capsys):
    report = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["guard", "--report", str(report)])
    report.write_text(json.dumps(baseline))
    guard.main()
    report.write_text(json.dumps(changed(baseline, FIGURES[0], 0.5)))
    with pytest.raises(SystemExit) as stopped:
        guard.main()
    assert stopped.value.code == 1
    assert "WORSE" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (0.5, 2)])
def test_make_bench_fails_when_a_figure_got_worse(baseline, tmp_path, factor, code):
    """What the Makefile runs; make says 2 for a command that ends with 1."""
    (tmp_path / "report.json").write_text(json.dumps(changed(baseline, FIGURES[0], factor)))
    command = [
        "make",
        "--old-file=setup",
        "bench",
        f"RUN={sys.executable}",
        f"ARGS=--report {tmp_path / 'report.json'}",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert ("WORSE" in result.stdout) == (code == 2)


def test_update_writes_the_baseline(baseline, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "BASELINE", tmp_path / "baseline.json")
    (tmp_path / "report.json").write_text(json.dumps(baseline))
    monkeypatch.setattr(sys, "argv", ["guard", "--update", "--report", str(tmp_path / "report.json")])
    guard.main()
    assert json.loads((tmp_path / "baseline.json").read_text()) == baseline
