# SPDX-License-Identifier: Apache-2.0
"""evaluate.json: the right grid, the right figures, and a shifted result does not pass."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from scipy.interpolate import CubicSpline
from scripts.degradation import SliceProfileOperator
from scripts.evaluation.lpips import SliceLPIPS
from scripts.evaluation.metrics import foreground
from scripts.evaluation.resolution import score_through_plane
from scripts.geometry import SliceGrid
from scripts.networks.srnet import SRNet
from skimage.metrics import peak_signal_noise_ratio
from torch.nn import functional as F
from torchvision.models import alexnet

from tests.configs.test_inference_config import SIZE
from tests.conftest import BUNDLE, TINY_NETWORK, make_affine, run_bundle, run_workflow, save_nifti, smooth_volume

CONFIGS = ("inference.json", "evaluate.json")


@pytest.fixture(autouse=True)
def empty_hub(monkeypatch, tmp_path):
    """Whether this machine holds AlexNet's weights must not matter."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def evaluate(tmp_path):
    torch.manual_seed(0)
    network = SRNet(**TINY_NETWORK)
    torch.nn.init.zeros_(network.reconstruct.weight)  # exactly cubic
    torch.save(network.state_dict(), tmp_path / "weights.pt")

    def run(**overrides):
        settings = {"ckpt_path": str(tmp_path / "weights.pt"), "device": "cpu", "progress": False, **SIZE, **overrides}
        return run_workflow(
            *CONFIGS, workflow_type="infer", bundle_root=str(BUNDLE), dataset_dir=str(tmp_path / "in"),
            output_dir=str(tmp_path / "out"), **settings,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("plane", "axis", "orientation"),
    [
        ("axial", 2, {}),
        ("coronal", 1, {"flip": (1, -1, 1)}),
        ("sagittal", 2, {"permute": (1, 2, 0), "rotate": (9, 4, 0)}),
    ],
)
def test_a_network_that_is_cubic_scores_as_cubic_does(tmp_path, evaluate, plane, axis, orientation):
    truth = smooth_volume((30, 33, 34), seed=2) - 100  # with negative values, so that there is no floor
    save_nifti(tmp_path / "in" / "head.nii.gz", truth, make_affine([1, 1.1, 1], **orientation))
    evaluate(evaluation_axis=plane, data_consistency="off", method="network", background=-9)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    scores = metrics["cases"]["head"]
    assert list(scores) == ["bicubic", "bicubic_dc", "network"]
    assert scores["network"]["psnr"] == pytest.approx(scores["bicubic"]["psnr"], abs=1e-3)
    assert scores["bicubic_dc"]["psnr"] > scores["bicubic"]["psnr"]
    # second computation: gaussian weights written out, torch's own bicubic, scikit-image's PSNR
    moved = np.moveaxis(truth, axis, -1)
    n = moved.shape[-1] // 4
    moved = moved[..., : 4 * n].astype(np.float64)
    sigma = 4 / 2.354820045
    weights = np.array([[np.exp(-0.5 * ((j - 4 * k - 1.5) / sigma) ** 2) for j in range(4 * n)] for k in range(n)])
    weights[np.abs(np.arange(4 * n)[None] - 4 * np.arange(n)[:, None] - 1.5) > 3 * sigma] = 0
    thick = moved @ (weights / weights.sum(1, keepdims=True)).T
    cubic = F.interpolate(
        torch.from_numpy(thick)[:, None], size=(thick.shape[1], 4 * n), mode="bicubic", align_corners=False
    )[:, 0].numpy()
    expected = peak_signal_noise_ratio(moved, cubic, data_range=np.ptp(moved))
    assert scores["bicubic"]["psnr"] == pytest.approx(expected, abs=1e-3)
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(scores)
    assert float(rows[0]["psnr"]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("factor", "thick", "thin"), [(2, 15, 30), (2.5, 12, 30), (3, 10, 30), (5, 6, 30), (3.7, 8, 30)]
)
def test_any_factor_is_scored_on_the_grid_of_the_truth(tmp_path, evaluate, factor, thick, thin):
    save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((28, 26, 31), seed=2) - 100, make_affine([1, 1.1, 1]))
    evaluate(evaluation_factor=factor, volumes=True, pictures=factor == 2.5, data_consistency="off", background=-9)
    assert (tmp_path / "out" / "pictures" / "h.png").exists() == (factor == 2.5)
    kept = nib.load(tmp_path / "out" / "volumes" / "h" / "ours.nii.gz")
    assert kept.shape == (28, 26, thin)
    metrics = read(tmp_path / "out")
    assert metrics["facts"]["scale_factor"] == factor
    scores = metrics["cases"]["h"]
    assert scores["ours"]["psnr"] == pytest.approx(scores["bicubic"]["psnr"], abs=1e-3)  # the network is cubic
    # SciPy's spline through the same thick slices at the same places agrees but for the kind of cubic
    operator = SliceProfileOperator(SliceGrid.over_slab(thick, factor))
    truth = np.asarray(nib.load(tmp_path / "out" / "volumes" / "h" / "truth.nii.gz").dataobj)
    slices = truth @ operator.matrix.T
    places = (np.arange(thin) - (thin - 1) / 2) / factor + (thick - 1) / 2
    spline = CubicSpline(np.arange(thick), slices, axis=2)(places)
    inner = slice(int(2 * factor), thin - int(2 * factor))
    difference = (np.asarray(kept.dataobj) - spline)[..., inner]
    assert np.abs(difference).mean() < 0.02 * np.ptp(truth)


def test_means_and_facts(tmp_path, evaluate):
    for i in range(2):
        save_nifti(tmp_path / "in" / f"h{i}.nii.gz", smooth_volume((24, 24, 24), seed=i) - 100, make_affine([1, 1, 1]))
    evaluate(data_consistency="exact", evaluation_thickness_to_spacing=0.8)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    values = [metrics["cases"][f"h{i}"]["ours"]["psnr"] for i in range(2)]
    assert metrics["summary"]["ours"]["psnr"]["mean"] == pytest.approx(np.mean(values))
    assert metrics["summary"]["ours"]["psnr"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["facts"]["thickness_to_spacing"] == 0.8
    # exact consistency of a cubic network is cubic with data consistency
    assert values[0] == pytest.approx(metrics["cases"]["h0"]["bicubic_dc"]["psnr"], abs=0.02)


def test_a_result_on_a_shifted_grid_is_not_scored(tmp_path, evaluate, monkeypatch):
    save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    right = SliceGrid.thin_affine

    def shifted(grid, affine, thick_axis):
        moved = right(grid, affine, thick_axis)
        moved[:3, 3] += 0.5 * moved[:3, thick_axis]
        return moved

    monkeypatch.setattr(SliceGrid, "thin_affine", shifted)
    with pytest.raises(SystemExit) as caught:
        evaluate()
    assert caught.value.code == 3
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_nibabel_reads_what_was_scored(tmp_path, evaluate):
    """A case that is no scan gets its line, the other its score."""
    save_nifti(tmp_path / "in" / "good.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no")
    with pytest.raises(SystemExit) as caught:
        evaluate()
    assert caught.value.code == 3
    assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"]) == ["good"]
    assert nib.load(tmp_path / "in" / "good.nii.gz").shape == (24, 24, 24)


FIGURES = ["psnr", "ssim", "psnr_foreground", "psnr_slices", "ssim_slices", "lpips"]
ALONG = [
    "sharpness_ratio", "edge_width_mm", "edge_width_in_plane_mm", "fourier_resolution_mm", "high_frequency_ratio_db"
]  # fmt: skip


def read(folder):
    """``metrics.json``, strictly: NaN and infinity are no JSON."""

    def refuse(word):
        raise AssertionError(f"{word} in metrics.json")

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


def test_without_weights_lpips_is_empty_and_says_why(tmp_path, evaluate, capsys):
    truth = smooth_volume((36, 33, 32), seed=3)
    save_nifti(tmp_path / "in" / "h.nii.gz", truth, make_affine([1, 1.1, 1.2]))
    evaluate()
    metrics = read(tmp_path / "out")
    assert list(metrics["definitions"]) == FIGURES + ALONG
    assert "alexnet-owt-7be5be79.pth" in metrics["lpips_reason"]
    assert "lpips_weights" in metrics["lpips_reason"]
    for scores in metrics["cases"]["h"].values():
        assert list(scores) == FIGURES
        assert scores["lpips"] is None
    assert metrics["summary"]["ours"]["lpips"] == {"mean": None, "std": None}
    assert metrics["lpips_reason"] in capsys.readouterr().out
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "method", *FIGURES]
    assert {row["lpips"] for row in rows} == {""}


def test_figures_along_the_thick_axis_and_the_picture(tmp_path, evaluate, capsys):
    """On a volume whose axes are neither in the usual order nor direction; coronal slices are axis 0 here."""
    truth = smooth_volume((32, 36, 33), seed=3)
    affine = make_affine([1.2, 1, 1.1], permute=(1, 2, 0), flip=(-1, 1, -1))
    save_nifti(tmp_path / "in" / "h.nii.gz", truth, affine)
    evaluate(evaluation_axis="coronal")
    metrics = read(tmp_path / "out")
    along = metrics["through_plane"]["h"]
    assert list(along) == ["bicubic", "bicubic_dc", "ours", "truth"]
    assert list(along["ours"]) == ALONG
    expected = score_through_plane(truth, truth, [1.2, 1, 1.1], 0, 4)
    assert along["truth"] == pytest.approx(expected, rel=1e-3)
    assert along["truth"]["fourier_resolution_mm"] == pytest.approx(2.4)
    assert along["bicubic"]["fourier_resolution_mm"] > 2.4
    assert along["bicubic"]["high_frequency_ratio_db"] < -3
    assert metrics["through_plane_summary"]["truth"]["edge_width_mm"]["mean"] == along["truth"]["edge_width_mm"]
    shown = capsys.readouterr().out
    assert "fourier_resolution_mm" in shown
    assert imread(tmp_path / "out" / "pictures" / "h.png").std() > 0.1


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_picture_gets_volumes_as_nibabel_turns_them(tmp_path, evaluate, monkeypatch, plane):
    seen = {}

    def draw(path, thick, results, truth, thick_axis, spacing_mm, scores, across):
        assert across is None
        seen.update(thick=thick, results=results, truth=truth, axis=thick_axis, spacing=spacing_mm, scores=scores)

    monkeypatch.setattr("scripts.evaluation.pictures.draw_comparison", draw)
    affine = make_affine([1.2, 1, 1.1], permute=(1, 2, 0), flip=(-1, 1, -1), rotate=(4, 9, 0))
    path = save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((32, 36, 28), seed=3), affine)
    evaluate(evaluation_axis=plane, data_consistency="exact")
    image = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(seen["truth"], image.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(seen["spacing"], image.header.get_zooms(), rtol=1e-6)
    assert seen["axis"] == {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    along = torch.from_numpy(np.moveaxis(seen["truth"], seen["axis"], -1).copy())
    expected = np.moveaxis(
        SliceProfileOperator(SliceGrid.over_slab(along.shape[-1] // 4, 4)).degrade(along).numpy(), -1, seen["axis"]
    )
    np.testing.assert_allclose(seen["thick"], expected, atol=1e-3 * expected.max())
    scores = read(tmp_path / "out")["cases"]["h"]
    assert seen["scores"] == {method: figures["psnr"] for method, figures in scores.items()}
    assert list(seen["results"]) == list(scores)


def test_figures_that_do_not_exist_are_null(tmp_path, evaluate, monkeypatch, capsys):
    figures = dict.fromkeys(ALONG, float("nan")) | {"high_frequency_ratio_db": float("-inf"), "edge_width_mm": 2.0}
    monkeypatch.setattr("scripts.evaluation.scores.score_through_plane", lambda *_: figures)
    save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    evaluate(pictures=False)
    along = read(tmp_path / "out")["through_plane"]["h"]["ours"]
    assert along == {name: 2.0 if name == "edge_width_mm" else None for name in ALONG}
    shown = capsys.readouterr().out
    assert "nan" not in shown
    assert "2.0000" in shown


def test_volumes_are_kept_on_request_and_give_the_same_figures(tmp_path, evaluate):
    truth = smooth_volume((30, 28, 24), seed=2)
    affine = make_affine([1, 1, 1], flip=(-1, 1, 1))
    save_nifti(tmp_path / "in" / "h.nii.gz", truth, affine)
    evaluate(pictures=False, volumes=True)
    kept = {p.name.split(".")[0]: nib.load(p) for p in (tmp_path / "out" / "volumes" / "h").iterdir()}
    assert sorted(kept) == ["bicubic", "bicubic_dc", "ours", "truth"]
    np.testing.assert_array_equal(np.asarray(kept["truth"].dataobj), truth)
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"]["h"]
    for method in ("bicubic", "bicubic_dc", "ours"):
        np.testing.assert_allclose(kept[method].affine, affine, atol=1e-4)
        volume = np.asarray(kept[method].dataobj)
        expected = peak_signal_noise_ratio(truth, volume, data_range=np.ptp(truth))
        assert scores[method]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_pictures_can_be_left_out(tmp_path, evaluate):
    save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    evaluate(pictures=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["metrics.csv", "metrics.json"]


def test_lpips_from_a_file_and_a_case_that_is_too_small(tmp_path, evaluate, capsys):
    torch.manual_seed(1)
    weights = tmp_path / "alexnet.pth"
    torch.save({f"features.{k}": v for k, v in alexnet(weights=None).features.state_dict().items()}, weights)
    truth = smooth_volume((36, 33, 32), seed=3) - 100  # with negative values, so that there is no floor
    save_nifti(tmp_path / "in" / "big.nii.gz", truth, make_affine([1, 1, 1]))
    evaluate(lpips_weights=str(weights), pictures=False, data_consistency="off", background=-9)
    metrics = read(tmp_path / "out")
    assert metrics["lpips_reason"] is None
    thick = metrics["cases"]["big"]
    assert thick["ours"]["lpips"] == pytest.approx(thick["bicubic"]["lpips"], abs=1e-5)  # the network is cubic
    noisy = truth + np.random.default_rng(0).normal(0, 1, truth.shape)
    metric = SliceLPIPS(str(weights))
    assert thick["bicubic"]["lpips"] > metric(noisy, truth, 2, foreground(truth)) > 0
    save_nifti(tmp_path / "in" / "small.nii.gz", truth[:20], make_affine([1, 1, 1]))
    capsys.readouterr()
    evaluate(lpips_weights=str(weights), pictures=False)
    metrics = read(tmp_path / "out")
    assert metrics["cases"]["small"]["ours"]["lpips"] is None
    assert metrics["lpips_reason"].startswith("1 of 2 cases: ")
    assert "31 pixels" in metrics["lpips_reason"]
    mean = metrics["summary"]["ours"]["lpips"]["mean"]
    assert mean == pytest.approx(metrics["cases"]["big"]["ours"]["lpips"])
    assert metrics["lpips_reason"] in capsys.readouterr().out


def test_engines_are_scored_like_the_network(tmp_path, evaluate):
    save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    found = {}
    for engine in ("torch", "torchscript"):
        evaluate(engine=engine, pictures=False)
        metrics = read(tmp_path / "out")
        assert metrics["facts"]["engine"] == engine
        found[engine] = metrics["cases"]["h"]["ours"]["psnr"]
    assert found["torchscript"] == pytest.approx(found["torch"], abs=1e-4)


@pytest.mark.slow
def test_the_old_list_of_configs_ends_with_the_right_one(tmp_path):
    configs = "','".join(str(BUNDLE / "configs" / name) for name in ("common.json", "evaluate.json"))
    done = run_bundle("evaluating", "--config_file", f"['{configs}']", "--bundle_root", BUNDLE, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("evaluate.json must")]
    assert "['bundle/configs/inference.json','bundle/configs/evaluate.json']" in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_weights_that_are_not_there_end_the_run_in_one_line(tmp_path):
    save_nifti(tmp_path / "in" / "h.nii.gz", smooth_volume((24, 24, 24)), make_affine([1, 1, 1]))
    configs = "','".join(str(BUNDLE / "configs" / name) for name in CONFIGS)
    done = run_bundle(
        "evaluating", "--config_file", f"['{configs}']", "--bundle_root", BUNDLE, "--dataset_dir", tmp_path / "in",
        "--output_dir", tmp_path / "out", "--lpips_weights", tmp_path / "none.pth", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("lpips_weights must name")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
