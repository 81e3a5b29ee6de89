# SPDX-License-Identifier: Apache-2.0
"""Figures of the weights: one file, and every page says what it says."""

import hashlib
import json

import pytest

from tests.conftest import BUNDLE, ROOT
from tools.figures import FIGURES, METADATA, PAGES, collect, filled, gains, with_eval_metrics


def evaluation(path, ours, cubic):
    row = {"psnr": cubic, "ssim": 0.9}
    rows = {"bicubic": row, "bicubic_dc": row, "ours": {"psnr": ours, "ssim": 0.95}}
    path.write_text(json.dumps({"facts": {"slices": path.stem, "flips": False}, "cases": {"head": rows}}))
    return path


def test_gains_are_those_of_the_evaluations(tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    files = {"axial": evaluation(tmp_path / "a", 33.0, 30.0), "coronal": evaluation(tmp_path / "c", 31.0, 30.0)}
    figures = collect(files, weights)
    assert figures["model_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert gains(figures)["psnr"] == pytest.approx([3.0, 1.0])
    page = "before\n<!-- figures: sentence -->\nstale\n<!-- end of figures -->\nafter\n"
    text = filled(page, figures)
    assert "**+2.00 dB** PSNR on average (least +1.00, most +3.00) and +0.050 SSIM" in text
    assert "stale" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| axial | head | 30.00 / 0.900 | 30.00 / 0.900 | **33.00 / 0.950** | +3.00 / +0.050 |" in filled(
        page.replace("sentence", "table"), figures
    )
    assert json.loads(with_eval_metrics("{}", figures))["eval_metrics"]["psnr_gain_over_cubic_db"] == 2.0


def test_an_unknown_block_is_an_error():
    with pytest.raises(ValueError, match="must be one of table, means, sentence, got other"):
        filled("<!-- figures: other -->\n<!-- end of figures -->", {})


def test_every_page_says_what_the_file_says():
    figures = json.loads(FIGURES.read_text())
    blocks = 0
    for page in PAGES:
        text = page.read_text()
        blocks += text.count("<!-- figures: ")
        assert filled(text, figures) == text, f"{page.relative_to(ROOT)}: python -m tools.figures"
    assert blocks >= 3
    assert with_eval_metrics(METADATA.read_text(), figures) == METADATA.read_text()


def test_the_figures_are_those_of_the_shipped_weights():
    weights = (BUNDLE / "models" / "model.pt").read_bytes()
    assert json.loads(FIGURES.read_text())["model_sha256"] == hashlib.sha256(weights).hexdigest()
