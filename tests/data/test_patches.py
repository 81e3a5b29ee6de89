# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from scripts.data.patches import MixedPatches, UnpairedPatches
from scripts.training.batches import IterationBatches
from scripts.transforms.patch import RandPlanePatchd
from torch.utils.data import DataLoader


class Volumes(list):
    """Volumes that all hold their own number, so that a patch tells where it came from."""

    def __init__(self, numbers, patients):
        super().__init__(
            {"image": torch.full((1, 12, 12, 12), float(n)), "spacing_mm": (1.0, 1.0, 1.0)} for n in numbers
        )
        self.patients = list(patients)


def transform(noise=0.0):
    steps = [RandPlanePatchd("image", planes="any", size=(6, 8), min_std=0), RandFlipd("image", prob=0.5)]
    return Compose([*steps, RandGaussianNoised("image", prob=1.0, std=noise)] if noise else steps)


def mixed(seed=0, length=64, noise=0.1):
    volumes = {"ct": Volumes([1, 2], "ab"), "mr": Volumes([10, 20, 30], "cde")}
    return MixedPatches(volumes, {"ct": transform(noise), "mr": transform(noise)}, length, seed, {"ct": 1, "mr": 3})


def test_item_depends_on_seed_and_index_alone():
    first, second, other = mixed(), mixed(), mixed(seed=1)
    for index in (7, 3, 63, 3):
        assert torch.equal(first[index]["image"], second[index]["image"])
        assert not torch.equal(first[index]["image"], other[index]["image"])
    _ = [first[i] for i in range(20)]  # whatever was asked before
    assert torch.equal(first[3]["image"], second[3]["image"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_resume_change_nothing(workers):
    whole = [b["image"] for b in DataLoader(mixed(), batch_sampler=IterationBatches(16, 4), num_workers=0)]
    batches = IterationBatches(16, 4)
    batches.start = 10
    rest = [b["image"] for b in DataLoader(mixed(), batch_sampler=batches, num_workers=workers)]
    assert len(rest) == 6
    assert all(torch.equal(a, b) for a, b in zip(whole[10:], rest, strict=True))


def test_two_processes_see_what_one_with_the_doubled_batch_sees():
    single = list(IterationBatches(5, 6))
    pair = list(
        zip(IterationBatches(5, 3, rank=0, world_size=2), IterationBatches(5, 3, rank=1, world_size=2), strict=True)
    )
    assert [a + b for a, b in pair] == single
    assert [i for batch in single for i in batch] == list(range(30))


def test_sources_are_drawn_by_weight():
    dataset = mixed(length=2000, noise=0)
    from_mr = sum(float(dataset[i]["image"].mean()) >= 10 for i in range(2000))
    assert 1420 < from_mr < 1580  # 3 of 4


def test_source_of_weight_zero_may_be_empty():
    volumes = {"ct": Volumes([1], "a"), "mr": Volumes([], "")}
    dataset = MixedPatches(volumes, {"ct": transform(), "mr": transform()}, 10, 0, {"ct": 1, "mr": 0})
    assert all(float(dataset[i]["image"].mean()) == 1 for i in range(10))


def test_empty_source_is_refused_unless_nothing_is_asked_of_it():
    arguments = ({"ct": Volumes([], "")}, {"ct": transform()})
    assert len(MixedPatches(*arguments, 0, 0)) == 0
    with pytest.raises(ValueError, match="at least one training volume"):
        MixedPatches(*arguments, 5, 0)


def test_a_patients_ct_never_guides_that_patients_mr():
    volumes = {"mr": Volumes([10, 20, 30], "abc"), "ct": Volumes([1, 2], "ab")}
    dataset = UnpairedPatches(volumes, {"mr": transform(), "ct": transform()}, 300, 0, attribute_channels=8)
    seen = {(float(d["mr_image"].mean()), float(d["ct_image"].mean())) for d in map(dataset.__getitem__, range(300))}
    assert seen == {(10, 2), (20, 1), (30, 1), (30, 2)}


def test_prior_draws_are_part_of_the_item():
    volumes = {"mr": Volumes([10], "a"), "ct": Volumes([1], "b")}
    arguments = (volumes, {"mr": transform(), "ct": transform()}, 4000, 3)
    dataset = UnpairedPatches(*arguments, attribute_channels=8)
    draws = torch.stack([dataset[i]["mr_attribute"] for i in range(1000)])
    assert draws.shape == (1000, 8)
    assert torch.equal(draws[5], dataset[5]["mr_attribute"])
    assert not torch.equal(dataset[5]["mr_attribute"], dataset[5]["ct_attribute"])
    assert draws.mean().abs() < 0.05
    assert draws.std() == pytest.approx(1, abs=0.05)
    assert "mr_attribute" not in UnpairedPatches(*arguments)[0]


def test_the_same_only_patient_on_both_sides_is_refused():
    volumes = {"mr": Volumes([10, 20], "aa"), "ct": Volumes([1], "a")}
    with pytest.raises(ValueError, match="different patients"):
        UnpairedPatches(volumes, {"mr": transform(), "ct": transform()}, 10, 0)
