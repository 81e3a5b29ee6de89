# SPDX-License-Identifier: Apache-2.0
"""The patient's CT as a guide: where it comes to lie, that a registration is found, and that a failure is noticed."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.geometry import voxel_spacing_mm
from scripts.inference.guide import GuideByCTd, guided_batch, on_thin_grid, working_affine
from scripts.inference.inferer import ThroughPlaneInferer
from scripts.networks.guided import GuidedSRNet
from scripts.networks.srnet import SRNet
from scripts.reasons import CaseError
from scripts.transforms.consistency import scan_operator
from scripts.transforms.degrade import thicken
from scripts.transforms.orient import OrientThickAxisLast

from phantom import make_patient
from tests.conftest import TINY_GUIDE, TINY_NETWORK, make_affine, rotation, save_nifti, world_ramp

HOW = {
    "register": True, "search_mm": 24, "min_distinctness": 0.25, "min_overlap": 0.3, "policy": "refuse",
    "window_hu": (-1000, 1000), "padding_below_hu": -1500,
}  # fmt: skip


def oriented(array, affine, scale_factor):
    meta = {"original_affine": affine, "slice_thickness_mm": float("nan")}
    scan = OrientThickAxisLast()(MetaTensor(torch.from_numpy(np.float32(array))[None], meta=meta))
    scan.meta["scale_factor"] = scale_factor
    return scan


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return GuidedSRNet(**TINY_NETWORK, **TINY_GUIDE).eval()


def guide_by(path, network, **how):
    return GuideByCTd("image", None if path is None else str(path), network, **{**HOW, **how})


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("permute", [(0, 1, 2), (2, 0, 1)])
def test_the_working_axes_have_the_affine_of_their_voxels(permute, flip):
    spacing = np.array([1.0, 1.2, 1.1])
    spacing[1] = 4.0
    affine = make_affine(spacing, rotate=(5, -8, 3), permute=permute, flip=flip)
    scan = oriented(world_ramp((10, 8, 12), affine), affine, 4)
    np.testing.assert_allclose(world_ramp(scan.shape[1:], working_affine(scan)), scan[0].numpy(), rtol=1e-5)


def test_a_ct_comes_to_lie_on_the_thin_grid():
    """A CT that holds a linear function of the place in the world shows it at the thin voxels' places."""
    affine = make_affine((1.0, 4.0, 1.2), rotate=(5, -8, 3), flip=(1, -1, 1))
    scan = oriented(world_ramp((12, 6, 10), affine), affine, 4)
    ct_affine = make_affine((0.7, 0.6, 0.8), rotate=(-4, 2, 9), origin=(-46.0, -6.0, 8.0))
    ct = torch.from_numpy(np.float32(world_ramp((40, 90, 40), ct_affine) / 1000))
    known = torch.ones(ct.shape, dtype=torch.bool)
    known[:20] = False
    guide = on_thin_grid(ct, known, ct_affine, scan)
    assert guide.shape == (2, *scan.shape[1:3], 24)
    thin_affine = working_affine(scan) @ np.diag([1, 1, 0.25, 1])
    thin_affine[:3, 3] -= thin_affine[:3, 2] * 1.5  # the first of four thin slices, 1.5 of them before the middle
    places = np.stack(np.meshgrid(*map(np.arange, guide.shape[1:]), indexing="ij"), axis=-1)
    world = places @ thin_affine[:3, :3].T + thin_affine[:3, 3]
    inside = (world - ct_affine[:3, 3]) @ np.linalg.inv(ct_affine[:3, :3]).T
    measured = (inside >= [20, 0, 0]).all(-1) & (inside <= np.array(ct.shape) - 1).all(-1)
    assert 0.2 < measured.mean() < 0.9
    assert np.mean(measured != (guide[1].numpy() > 0)) < 0.02  # on the border itself
    deep = ((inside >= [26, 6, 6]) & (inside <= np.array(ct.shape) - 7)).all(-1)
    np.testing.assert_allclose(guide[0].numpy()[deep], world_ramp(guide.shape[1:], thin_affine)[deep] / 1000, atol=2e-3)
    assert (guide[0][guide[1] == 0] == 0).all()


def test_a_guide_and_a_network_that_takes_it_go_together(network, tmp_path):
    with pytest.raises(ValueError, match=r"add network_guided\.json"):
        guide_by(tmp_path / "ct.nii.gz", SRNet(**TINY_NETWORK))
    with pytest.raises(ValueError, match="guide_ct must be given"):
        guide_by(None, network)
    with pytest.raises(ValueError, match="guide_policy must be one of"):
        guide_by(tmp_path / "ct.nii.gz", network, policy="guess")
    assert guide_by(None, SRNet(**TINY_NETWORK))({"image": 1}) == {"image": 1}
    scan = oriented(world_ramp((12, 10, 6), np.diag([1, 1, 4.0, 1])), np.diag([1, 1, 4.0, 1]), 4)[None]
    with pytest.raises(ValueError, match="got GuidedSRNet without one"):
        ThroughPlaneInferer("box")(scan, network)
    with pytest.raises(ValueError, match="got SRNet with one"):
        ThroughPlaneInferer("box")(scan, SRNet(**TINY_NETWORK), torch.zeros(1, 2, 12, 10, 24))


def test_what_is_no_ct_is_refused(network, tmp_path):
    path = save_nifti(tmp_path / "mr.nii.gz", np.random.default_rng(0).random((12, 12, 12)) * 900, np.eye(4))
    with pytest.raises(CaseError, match="NOT_A_CT: guide_ct must be in Hounsfield units"):
        guide_by(path, network)({"image": None})


@pytest.mark.parametrize("flips", [False, True])
def test_the_inferer_cuts_the_guide_as_it_cuts_the_images(network, flips):
    """In windows and boxes of tissue, in both orientations and flipped: the same as in one piece, image by image."""
    torch.manual_seed(1)
    torch.nn.init.normal_(network.guidance[-1].weight, std=0.05)
    affine = np.diag([1, 1, 4.0, 1])
    volume = torch.rand(20, 14, 6) * 1.2 - 0.2
    volume[:5] = -1
    scan = oriented(volume.numpy(), affine, 4)[None]
    guide = torch.rand(1, 2, 20, 14, 24)
    guide[:, 1] = (guide[:, 1] > 0.3).float()
    how = {"profile": "box", "halo": 20, "air_margin": 20, "background": -2, "flips": flips, "progress": False}
    whole = ThroughPlaneInferer(**how)(scan, network, guide)
    parts = ThroughPlaneInferer(**how, batch_pixels=100, window_pixels=30)(scan, network, guide)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    told = scan_operator(scan[0], "box", None).told(0.25)
    expected = []
    for side in (0, 1):
        images, beside = volume.movedim(side, 0)[:, None], guide[0].movedim(1 + side, 0)
        for flip in [(), (2,), (3,), (2, 3)] if flips else [()]:
            with torch.no_grad():
                found = network(images.flip(flip), *told, beside.flip(flip))[:, 0]
            expected.append(found.flip([axis - 1 for axis in flip]).movedim(0, side))
    torch.testing.assert_close(whole[0, 0], torch.stack(expected).mean(0), atol=1e-5, rtol=0)


def test_the_batch_carries_the_guide():
    batch = {"image": torch.ones(1, 1, 2, 2, 2), "guide": torch.zeros(1, 2, 2, 2, 8)}
    image, label, args, kwargs = guided_batch(batch, "cpu")
    assert torch.equal(image, batch["image"])
    assert label is None
    assert torch.equal(args[0], batch["guide"])
    assert kwargs == {}
    assert guided_batch({"image": batch["image"]}, "cpu")[2] == ()


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """A thick MR, and the CT of the same person as if scanned on another day: the affine moved."""
    folder = tmp_path_factory.mktemp("person")
    patient = make_patient(3, (60, 66, 60), (1.6, 1.6, 1.6))
    movement = np.eye(4)
    movement[:3, :3], movement[:3, 3] = rotation((3, -4, 2)), (9, -6, 7)
    thick, thick_affine = thicken(patient.mr, patient.affine_ras, scale_factor=3, thick_axis=2)
    unit = thick / np.percentile(thick, 99.5) * 2 - 1
    ct = save_nifti(folder / "ct.nii.gz", np.rint(patient.ct).astype(np.int16), movement @ patient.affine_ras)
    noise = np.random.default_rng(0).permutation(patient.ct.ravel()).reshape(patient.ct.shape)
    impossible = save_nifti(folder / "noise.nii.gz", np.rint(noise).astype(np.int16), patient.affine_ras)
    return oriented(unit, thick_affine, 3), ct, impossible, patient


@pytest.mark.slow
def test_registration_brings_the_ct_back(network, person):
    scan, ct, _, patient = person
    found = guide_by(ct, network)({"image": scan})
    assert scan.meta["guide"].startswith("used: registered by")
    unit = (torch.from_numpy(patient.ct).clamp(-1000, 1000) / 1000)[..., : found["guide"].shape[-1]]
    known = found["guide"][1] > 0
    assert known.float().mean() > 0.7
    after = np.corrcoef(found["guide"][0][known], unit[known])[0, 1]
    before = guide_by(ct, network, register=False)({"image": scan})["guide"]
    assert after > 0.97
    assert np.corrcoef(before[0][before[1] > 0], unit[before[1] > 0])[0, 1] < 0.75
    assert voxel_spacing_mm(working_affine(scan))[2] == pytest.approx(4.8)


@pytest.mark.slow
def test_an_impossible_registration_is_noticed(network, person):
    scan, _, impossible, _ = person
    with pytest.raises(CaseError, match="GUIDE_DIFFERS: the CT must fit at one place"):
        guide_by(impossible, network)({"image": scan})
    found = guide_by(impossible, network, policy="unguided")({"image": scan})
    assert not found["guide"].any()
    assert scan.meta["guide"].startswith("not used: the CT must fit at one place")


def test_a_ct_of_another_place_is_noticed(network, person):
    scan, ct, *_ = person
    elsewhere = np.eye(4)
    elsewhere[0, 3] = 400
    far = scan.clone()
    far.meta = {**scan.meta, "original_affine": elsewhere @ np.asarray(scan.meta["original_affine"])}
    with pytest.raises(CaseError, match="GUIDE_DIFFERS: the CT must show 30% of the scan, got 0%"):
        guide_by(ct, network, register=False)({"image": far})
