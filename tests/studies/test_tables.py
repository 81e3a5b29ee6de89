# SPDX-License-Identifier: Apache-2.0
"""Tables, from the command line, on small volumes with everything recomputed."""

import json
import math
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from scipy import stats
from scripts.degradation import SliceProfileOperator
from scripts.geometry import SliceGrid
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from studies.ours import train_ours
from studies.statistics import compare_paired
from tests.conftest import BUNDLE, ROOT, make_affine, run_workflow, save_nifti, smooth_volume

SMALL = [
    "--set", "network_def::blocks=1", "network_def::layers=2", "network_def::growth=4", "network_def::features=4",
    "patch::size=[16,6]", "per_scan::zssr::network::features=4", "per_scan::smore::network::features=4",
    "from_thick_mr::tscn::size=16", "supervised::reconresnet::network::features=4", "curve_rows=8",
]  # fmt: skip


def table(name, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bundle'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", f"studies.{name}", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    for i in range(2):
        truth = smooth_volume((40, 36, 42), seed=i)  # 42 is not a multiple of 4: the table cuts off what is left
        save_nifti(tmp_path / "hr" / f"head{i}.nii.gz", truth.astype(np.int16), make_affine([1, 1, 1], flip=(-1, 1, 1)))
        save_nifti(tmp_path / "hr_train" / f"t{i}.nii.gz", smooth_volume((40, 40, 40), 5 + i), make_affine([1, 1, 1]))
        save_nifti(tmp_path / "mr" / f"mr{i}.nii.gz", smooth_volume((48, 52, 14), 10 + i), make_affine([1, 1, 4.0]))
        ct = smooth_volume((48, 44, 40), 20 + i) * 1.5 - 1000
        save_nifti(tmp_path / "ct" / f"ct{i}.nii.gz", ct.astype(np.int16), make_affine([1, 1, 1.2]))
    return tmp_path


@pytest.mark.slow
def test_table1_recomputed_resumed_and_honest_about_what_is_missing(folders):
    wanted = ["bicubic", "bicubic_dc", "sinc", "tv", "zssr", "smore", "tscn", "minet", "gan_circle"]
    wanted += ["rdn_supervised", "reconresnet", "ours_stage1", "eclare"]
    arguments = ["--hr", folders / "hr", "--mr", folders / "mr", "--budget", 0.5, "--output", folders / "out", *SMALL]
    arguments += ["--rows", *wanted]
    done = table("table1", *arguments, cwd=folders)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((folders / "out" / "table1.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    assert list(rows) == wanted
    for method in ("bicubic", "bicubic_dc", "sinc", "tv", "zssr", "smore", "tscn"):
        assert rows[method]["status"] == "done"
        assert list(rows[method]["cases"]) == ["head0", "head1"]
        assert all(abs(case["shift_voxels"]) < 0.2 for case in rows[method]["cases"].values())
    assert "CT" in rows["ours_stage1"]["status"]
    assert "HR_TRAIN" in rows["rdn_supervised"]["status"]
    assert "HR_TRAIN" in rows["gan_circle"]["status"]
    assert "REFERENCE" in rows["minet"]["status"]
    assert rows["bicubic"]["once_seconds"] == rows["zssr"]["once_seconds"] == 0
    assert rows["tscn"]["once_seconds"] >= 0.5
    spent = [case["cpu_seconds"] for case in rows["zssr"]["cases"].values()]
    assert rows["zssr"]["per_scan_seconds"] == pytest.approx(np.mean(spent))
    assert "squeeze" not in (folders / "out" / "table1.md").read_text()  # no weights, no column
    assert rows["zssr"]["budget_s"] == 0.5
    assert [point["budget_s"] for point in rows["zssr"]["curve"]] == [0.125, 0.25, 0.5]
    assert content["lpips_reason"]
    assert content["tests"]["note"]
    # every figure again, from the volumes on disk
    for case in ("head0", "head1"):
        source = np.asarray(nib.load(folders / "hr" / f"{case}.nii.gz").dataobj, np.float32)[..., :40]
        truth = np.asarray(nib.load(folders / "out" / "volumes" / case / "truth.nii.gz").dataobj)
        np.testing.assert_array_equal(truth, source)
        for method in ("bicubic", "bicubic_dc", "sinc", "zssr", "tscn"):
            image = nib.load(folders / "out" / "volumes" / case / f"{method}.nii.gz")
            np.testing.assert_allclose(image.affine, nib.load(folders / "hr" / f"{case}.nii.gz").affine, atol=1e-4)
            volume, found = np.asarray(image.dataobj), rows[method]["cases"][case]
            span = float(np.ptp(truth))
            assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, volume, data_range=span), abs=1e-3)
            assert found["ssim"] == pytest.approx(structural_similarity(truth, volume, data_range=span), abs=1e-3)
            assert found["lpips"] is None
    # cubic interpolation again, from nothing but torch and the operator
    thick = SliceProfileOperator(SliceGrid.under_slab(40, 4)).degrade(torch.from_numpy(truth.astype(np.float64)))
    cubic = torch.nn.functional.interpolate(
        thick[None, None].flatten(2, 3), scale_factor=(1, 4), mode="bicubic", align_corners=False
    )[0, 0].reshape(truth.shape)
    volume = np.asarray(nib.load(folders / "out" / "volumes" / "head1" / "bicubic.nii.gz").dataobj)
    # a line that undershoots the scan's minimum is raised to it; the others are cubic interpolation and nothing else
    kept = (cubic >= thick.min()).all(dim=-1).numpy()
    assert kept.mean() > 0.3
    np.testing.assert_allclose(volume[kept], cubic.numpy()[kept], atol=0.05)
    assert volume.min() >= float(thick.min())
    text = (folders / "out" / "table1.md").read_text()
    assert "0.5 CPU-seconds" in text
    assert (folders / "out" / "figures" / "head0.png").stat().st_size > 10_000
    for picture in ("curves.png", "summary.png"):
        assert (folders / "out" / "figures" / picture).stat().st_size > 5_000
    # again: nothing is done twice, and other settings are not mixed in
    before = {p: p.stat().st_mtime_ns for p in (folders / "out" / "scores").rglob("*.json")}
    again = table("table1", *arguments, "--hr-train", folders / "hr_train", cwd=folders)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "row 13 of 13: eclare" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before
    rows = {row["method"]: row for row in json.loads((folders / "out" / "table1.json").read_text())["rows"]}
    assert rows["rdn_supervised"]["status"] == rows["reconresnet"]["status"] == rows["gan_circle"]["status"] == "done"
    other = table("table1", *arguments, "--hr-train", folders / "hr_train", "--seed", 3, cwd=folders)
    assert other.returncode == 1
    assert "other settings (seed)" in other.stderr


@pytest.mark.slow
def test_table2_and_our_rows_through_the_bundles_own_commands(folders):
    small = [*SMALL, "patch_rows=16", "patch_columns=24"]
    done = table(
        "table2", "--hr", folders / "hr", folders / "hr", "--protocol", "site1", "axial", "--ct", folders / "ct",
        "--mr", folders / "hr_train", "--budget", 1, "--output", folders / "out",
        "--rows", "bicubic", "stage12_inplane",
        *small, "curve_fractions=[]", cwd=folders,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((folders / "out" / "table2.json").read_text())
    bicubic, ours = content["rows"]
    assert ours["status"] == "done"
    assert (
        list(ours["cases"])
        == list(bicubic["cases"])
        == [f"hr, {protocol}/head{i}" for protocol in ("site1", "axial") for i in range(2)]
    )
    assert ours["parameters"] > 0
    # MR that is thin was made thick before anything was learnt from it
    assert nib.load(folders / "out" / "mr" / "t0.nii.gz").shape == (40, 40, 10)
    # the protocols differ in the axis, and so do the results
    assert bicubic["cases"]["hr, site1/head0"]["psnr"] != bicubic["cases"]["hr, axial/head0"]["psnr"]
    assert "hr, site1: PSNR" in (folders / "out" / "table2.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "site9"], "PROTOCOL must be one of axial, site1, site2"),
        (["--protocol", "site1", "site2"], "one for each of 1 folders, got 2"),
        (["--ct", "nowhere"], "CT must be a folder, got nowhere"),
        (["--budget", "0"], "BUDGET must be > 0"),
        (["--reference", "a", "b"], "REFERENCE must be one for each of 1 folders, got 2"),
        (["--rows", "magic"], "ROWS must be of bicubic"),
        (["--lpips-weights", "nowhere.pth"], "nowhere.pth, which does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folders, arguments, message, monkeypatch, capsys):
    from studies.table1 import main

    own = ["--hr", str(folders / "hr"), "--output", str(folders / "out")]
    monkeypatch.setattr(sys, "argv", ["table1", *own, *arguments])
    monkeypatch.chdir(folders)
    with pytest.raises(SystemExit) as end:
        main()
    assert message in str(end.value)  # Python prints it, and exits with 1
    assert "\n" not in str(end.value)
    assert not capsys.readouterr().err


def test_a_voxel_size_that_the_protocol_does_not_expect_is_warned_of(folders):
    from studies.cases import CaseSet

    site2 = CaseSet(folders / "hr", "site2", {"device": "cpu"})
    site2.case(0)
    assert site2.warnings == [
        "head0: the protocol expects voxels of [1.0, 1.3, 1.3] mm, this volume has 1.00 x 1.00 x 1.00 mm"
    ]
    site1 = CaseSet(folders / "hr", "site1", {"device": "cpu"})
    assert site1.case(0).thick_axis == 1
    assert not site1.warnings


def test_stage_of_a_budget_writes_its_weights_and_lowers_its_rate(training_data, tmp_path):
    from tests.conftest import TINY

    workflow = run_workflow(
        "common.json", "train_stage1.json", str(ROOT / "studies" / "ours.json"),
        **training_data, **{**TINY, "val_interval": 10**9}, output_dir=str(tmp_path / "out"), budget_s=1.0,
        autocast=None,
    )  # fmt: skip
    assert (tmp_path / "out" / "stage1.pt").is_file()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert 1 < trainer.state.iteration < 10_000
    (group,) = workflow.parser.get_parsed_content("optimizer").param_groups
    assert group["lr"] < 0.5 * 5e-4


def test_the_stages_of_a_row_and_what_lowers_their_rates(tmp_path, monkeypatch):
    """The configs that a row's commands are given, read as MONAI reads them: every optimiser follows the budget."""
    ran = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("studies.ours.run_bundle", lambda configs, run, **ids: ran.append((configs, ids)))
    train_ours([0.5, 0.25, 0.25], tmp_path, 8.0, {"paper_stages": [2, 3], "seed": 5})
    train_ours([0.5, 0.25, 0.25], tmp_path, 8.0, {"seed": 5})
    assert [ids for _, ids in ran] == 2 * [{"output_dir": tmp_path, "budget_s": s, "seed": 5} for s in (4.0, 2.0, 2.0)]
    rates = []
    for configs, _ in ran:
        parser = ConfigParser()
        parser.read_config([str(BUNDLE / "configs" / name) for name in configs])  # an absolute path stays as it is
        parser.update({"device": "cpu", "start_weights": None})
        optimizers = parser.get_parsed_content("budget_optimizers")
        named = ["optimizer", "discriminator_optimizer"][: 1 + ("train_stage3.json" in configs)]
        assert [id(made) for made in optimizers] == [id(parser.get_parsed_content(name)) for name in named]
        rates.append([group["lr"] for made in optimizers for group in made.param_groups])
        paper = any(name.endswith("_paper.json") for name in configs)
        assert (parser.get_parsed_content("max_gradient_norm") == math.inf) == paper
    # ours: the table's rate, in stage 3 a smaller one and a tenth of it for SRNet; the paper's everywhere from stage 2
    assert rates == [[5e-4], [1e-4], [1e-4] * 3, [5e-4], [5e-4], pytest.approx([1e-4, 1e-5, 1e-4])]


def test_adaptation_spends_its_budget_on_steps_however_long_judging_takes(monkeypatch):
    from studies import ours
    from studies.peers.scan import Scan

    class Adaptation:  # judging takes 10 seconds, a step takes 1
        iterations, clock = 0, 0.0

        def __call__(self, network, inputs):
            self.clock += 10 + self.iterations
            return network

    adaptation, network = Adaptation(), torch.nn.Linear(1, 1)
    monkeypatch.setattr(ours, "processor_seconds", lambda device: adaptation.clock)
    scan = Scan(torch.zeros(4, 4, 3), (1.0, 1.0, 4.0), SliceProfileOperator(SliceGrid.over_slab(3, 4.0)))
    ours.Adapted(network, adaptation).train(scan, 180.0, 0, torch.device("cpu"), None)
    assert adaptation.iterations == 140  # 180 - (10 + 9) - (10 + 1) - 10
    assert adaptation.clock == 180


def test_paired_comparison_against_scipy_and_by_hand():
    row, reference = [30.0, 31.0, 29.0, 28.0], [31.0, 31.5, 30.5, 28.4]
    result = compare_paired(row, reference)
    assert result["n"] == 4
    assert result["mean_difference"] == pytest.approx((1 + 0.5 + 1.5 + 0.4) / 4)
    d = np.array([1, 0.5, 1.5, 0.4])
    t = d.mean() / (d.std(ddof=1) / 2)
    assert result["p_value"] == pytest.approx(2 * stats.t.sf(t, 3))
    low, high = result["interval_95"]
    assert 0.4 <= low < d.mean() < high <= 1.5
    assert "n = 4: too few cases" in result["warning"]
    assert compare_paired([1.0], [2.0])["p_value"] is None
    assert compare_paired(list(range(9)), [x + 0.1 * x**2 for x in range(9)])["warning"] is None
    with pytest.raises(ValueError, match="same cases"):
        compare_paired([1.0], [1.0, 2.0])


def test_a_row_that_fails_says_why_and_the_others_go_on(folders):
    from studies.cases import CaseSet
    from studies.rows import Inputs, Rows

    sets = [CaseSet(folders / "hr", "axial", {"device": "cpu", "evaluation_factor": 3})]
    runner = Rows(Inputs(sets, folders / "out", 0.2, mr=folders / "mr"), {})
    expected = "failed: ValueError: scale_factor must be even for tscn, got 3; leave the row out"
    assert runner.run("tscn")["status"] == expected
    row = runner.run("bicubic")
    assert row["status"] == "done"
    assert row["budget_s"] == 0
    assert list(row["cases"]) == ["head0", "head1"]


def test_a_result_that_is_half_a_voxel_off_is_refused(folders, monkeypatch):
    from scipy.ndimage import shift

    from studies.cases import CaseSet
    from studies.rows import Inputs, Rows

    sets = [CaseSet(folders / "hr", "axial", {"device": "cpu"})]
    runner = Rows(Inputs(sets, folders / "out", 0.2), {})
    cubic = runner.plain["bicubic"]
    moved = torch.from_numpy
    runner.plain["bicubic"] = lambda scan: moved(shift(cubic(scan).numpy(), (0, 0, 0.5), order=3, mode="nearest"))
    status = runner.run("bicubic")["status"]
    assert status.startswith("refused: the result for head1 is +0.")
    assert "voxels off the grid of the truth" in status


def test_every_row_of_every_set_can_be_built_and_has_a_place_in_the_table():
    from studies.cases import read_table_config
    from studies.rows import KINDS

    parser = read_table_config("axial", {"device": "cpu"})
    sets = parser.get("sets")
    kinds = {method: kind for kind in KINDS for method in parser.get(kind)}
    without_json = {"bicubic", "bicubic_dc", "sinc", "eclare", *parser.get("ours")}
    assert set(sets["all"]) == set(kinds) | without_json
    assert len(sets["all"]) == len(kinds) + len(without_json)  # one kind a row
    assert all(set(rows) <= set(sets["all"]) for rows in (*sets.values(), parser.get("pictured")))
    needs = {"per_scan": "train", "iterative": "solve", "unpaired": "train", "shipped": "forward"}
    for method, kind in kinds.items():
        assert hasattr(parser.get_parsed_content(f"{kind}::{method}"), needs.get(kind, "train")), method


def test_no_row_starts_from_what_another_has_trained(folders):
    from studies.cases import CaseSet
    from studies.rows import Inputs, Rows

    runner = Rows(Inputs([CaseSet(folders / "hr", "axial", {"device": "cpu"})], folders / "out", 0.2), {})
    shipped, untrained = runner.peer("ours_shipped"), runner.peer("rdn_supervised").network
    assert not any(torch.equal(a, b) for a, b in zip(shipped.parameters(), untrained.parameters(), strict=True))
    other = Rows(runner.inputs, {}).peer("rdn_supervised").network  # the seed alone decides
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), untrained.parameters(), strict=True))


def test_the_second_contrast_is_brought_to_the_scans_axes(folders):
    from studies.cases import CaseSet

    (folders / "other").mkdir()
    for i in range(2):
        image = nib.load(folders / "hr" / f"head{i}.nii.gz")
        nib.save(
            nib.Nifti1Image(-np.asarray(image.dataobj, np.float32), image.affine), folders / "other" / f"head{i}.nii.gz"
        )
    case = CaseSet(folders / "hr", "site1", {"device": "cpu"}, folders / "other").case(0)
    reference, truth = case.scan.reference, case.truth_in_unit_range()
    assert reference.shape == truth.shape == (*case.scan.image.shape[:2], 36)
    assert np.corrcoef(reference.flatten(), truth.flatten())[0, 1] == pytest.approx(-1, abs=1e-4)
    assert float(reference.abs().max()) < 2  # its own range
    part, _ = case.slab(8)
    assert part.reference.shape == (8, *truth.shape[1:])
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), folders / "other" / "head0.nii.gz")
    with pytest.raises(ValueError, match="reference of head0 must lie on its grid"):
        CaseSet(folders / "hr", "site1", {"device": "cpu"}, folders / "other").case(0)
    (folders / "other" / "head0.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="REFERENCE must hold the other contrast of head0"):
        CaseSet(folders / "hr", "site1", {"device": "cpu"}, folders / "other").case(0)


def test_squeeze_distance_against_its_formula(tmp_path):
    """The weights here are random: the formula is checked, not the judgement."""
    from scipy.ndimage import gaussian_filter
    from torchvision.models import squeezenet

    from studies.perceptual import DEPTHS, SliceSqueeze

    torch.manual_seed(0)
    features = squeezenet.squeezenet1_1(weights=None).features
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, tmp_path / "w.pt")
    score = SliceSqueeze(str(tmp_path / "w.pt"), "caffe", batch_pixels=5000)
    truth = smooth_volume((40, 36, 44), seed=1)
    tissue = np.ones(truth.shape, bool)
    assert score(truth, truth, 2, tissue) == pytest.approx(0, abs=1e-9)
    blurred = [score(gaussian_filter(truth, (0, 0, s)), truth, 2, tissue) for s in (1, 3)]
    assert 0 < blurred[0] < blurred[1]
    # one slice, from nothing but torch and the definition
    low, high = truth.min(), truth.max()
    pair = [
        torch.from_numpy(255 * (v[20] - low) / (high - low)).float()[None, None]
        - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
        for v in (gaussian_filter(truth, (0, 0, 1)), truth)
    ]
    expected = 0.0
    with torch.no_grad():
        for index, layer in enumerate(features):
            pair = [layer(x) for x in pair]
            if index in DEPTHS:
                a, b = (torch.nn.functional.normalize(x, dim=1) for x in pair)
                expected += float((a - b).square().sum(1).mean()) / len(DEPTHS)
    unit = [
        torch.from_numpy(2 * (v[20] - low) / (high - low) - 1).float()[None, None].expand(-1, 3, -1, -1)
        for v in (gaussian_filter(truth, (0, 0, 1)), truth)
    ]
    assert float(score.network(*unit)) == pytest.approx(expected, rel=1e-3)


def test_summary_has_one_point_a_row(tmp_path, monkeypatch):
    from studies import tables

    def row(method, psnr, once, per_scan):
        cases = {"a": {"psnr": psnr}, "b": {"psnr": psnr + 1}}
        return {"method": method, "status": "done", "cases": cases, "once_seconds": once, "per_scan_seconds": per_scan}

    drawn = []
    save = tables.plt.Figure.savefig
    monkeypatch.setattr(tables.plt.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    rows = [row("bicubic", 30, 0, 0), row("smore", 32.5, 0, 60), row("rescnn", 31, 100, 2)]
    rows.append({"method": "eclare", "status": "not run: it is not here", "cases": {}})
    tables.draw_summary(rows, tmp_path / "summary.png")
    left, right = drawn[0].axes
    points = [
        [(float(x), float(y)) for line in axis.lines for x, y in zip(*line.get_data(), strict=True)]
        for axis in (left, right)
    ]
    assert points == [[(60.0, 2.5), (2.0, 1.0)], [(0.1, 2.5), (100.0, 1.0)]]
    assert [text.get_text() for text in left.texts] == ["smore", "rescnn"]


def test_a_folder_of_links_is_no_training_data_and_the_row_says_why(folders):
    from studies.rows import thick_training_scans

    (folders / "links").mkdir()
    (folders / "links" / "mr0.nii.gz").symlink_to(folders / "mr" / "mr0.nii.gz")
    with pytest.raises(ValueError, match=r"got none in .*links; mr0.nii.gz: NOT_A_FILE: .* got a link"):
        thick_training_scans(folders / "links", folders / "thick", scale_factor=4)


def test_training_data_that_are_left_out_are_counted_and_the_reason_is_told(folders, caplog):
    from studies.cases import training_cases

    (folders / "hr_train" / "link.nii.gz").symlink_to(folders / "mr" / "mr0.nii.gz")
    assert training_cases(folders / "mr", "MR")
    assert not caplog.records
    cases = training_cases(folders / "hr_train", "HR_TRAIN")
    assert f"HR_TRAIN: 1 left out, {len(cases)} to learn from; link.nii.gz: NOT_A_FILE" in caplog.text
    assert "link" not in {str(case["case"]) for case in cases}


def test_a_folder_of_links_is_no_test_data_and_the_reason_is_told(folders):
    from studies.cases import CaseSet

    (folders / "links").mkdir()
    (folders / "links" / "mr0.nii.gz").symlink_to(folders / "mr" / "mr0.nii.gz")
    with pytest.raises(ValueError, match=r"must hold thin-slice MR volumes, got none; mr0.nii.gz .* NOT_A_FILE"):
        CaseSet(folders / "links", "axial", {"device": "cpu"})


def test_crop_keeps_the_place_of_what_it_keeps(tmp_path):
    from studies.crop import crop

    volume = np.arange(30 * 20 * 10, dtype=np.float32).reshape(30, 20, 10)
    affine = make_affine([1, 2, 3])
    part = crop(nib.Nifti1Image(volume, affine), 12)
    assert part.shape == (12, 12, 10)
    np.testing.assert_array_equal(np.asarray(part.dataobj), volume[9:21, 4:16])
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], affine @ [9, 4, 0, 1])
