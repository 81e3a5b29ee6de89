# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from scripts.data.patches import MixedPatches, ScaleFactors, UnpairedPatches
from scripts.training.batches import IterationBatches
from scripts.transforms.degrade import RandDegraded
from scripts.transforms.patch import RandPlanePatchd
from torch.utils.data import DataLoader

FOUR = {"scale_factors": lambda rng: 4.0, "batch_size": 4}


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
    return MixedPatches(
        volumes, {"ct": transform(noise), "mr": transform(noise)}, length, seed, **FOUR, weights={"ct": 1, "mr": 3}
    )


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
    dataset = MixedPatches(volumes, {"ct": transform(), "mr": transform()}, 10, 0, **FOUR, weights={"ct": 1, "mr": 0})
    assert all(float(dataset[i]["image"].mean()) == 1 for i in range(10))


def test_empty_source_is_refused_unless_nothing_is_asked_of_it():
    arguments = ({"ct": Volumes([], "")}, {"ct": transform()})
    assert len(MixedPatches(*arguments, 0, 0, **FOUR)) == 0
    with pytest.raises(ValueError, match="at least one training volume"):
        MixedPatches(*arguments, 5, 0, **FOUR)


def test_a_patients_ct_never_guides_that_patients_mr():
    volumes = {"mr": Volumes([10, 20, 30], "abc"), "ct": Volumes([1, 2], "ab")}
    dataset = UnpairedPatches(volumes, {"mr": transform(), "ct": transform()}, 300, 0, **FOUR, attribute_channels=8)
    seen = {(float(d["mr_image"].mean()), float(d["ct_image"].mean())) for d in map(dataset.__getitem__, range(300))}
    assert seen == {(10, 2), (20, 1), (30, 1), (30, 2)}


def test_prior_draws_are_part_of_the_item():
    volumes = {"mr": Volumes([10], "a"), "ct": Volumes([1], "b")}
    arguments = (volumes, {"mr": transform(), "ct": transform()}, 4000, 3)
    dataset = UnpairedPatches(*arguments, **FOUR, attribute_channels=8)
    draws = torch.stack([dataset[i]["mr_attribute"] for i in range(1000)])
    assert draws.shape == (1000, 8)
    assert torch.equal(draws[5], dataset[5]["mr_attribute"])
    assert not torch.equal(dataset[5]["mr_attribute"], dataset[5]["ct_attribute"])
    assert draws.mean().abs() < 0.05
    assert draws.std() == pytest.approx(1, abs=0.05)
    assert "mr_attribute" not in UnpairedPatches(*arguments, **FOUR)[0]


def test_the_same_only_patient_on_both_sides_is_refused():
    volumes = {"mr": Volumes([10, 20], "aa"), "ct": Volumes([1], "a")}
    with pytest.raises(ValueError, match="different patients"):
        UnpairedPatches(volumes, {"mr": transform(), "ct": transform()}, 10, 0, **FOUR)


def test_factors_are_drawn_from_their_range_whole_ones_as_often_as_asked():
    rng = np.random.default_rng(0)
    drawn = np.array([ScaleFactors(1.5, 8, whole=0.3)(rng) for _ in range(4000)])
    assert drawn.min() >= 1.5
    assert drawn.max() <= 8
    whole = drawn == np.round(drawn)
    assert whole.mean() == pytest.approx(0.3, abs=0.03)
    assert set(drawn[whole]) == {2, 3, 4, 5, 6, 7, 8}
    # log-uniform: as many below the geometric mean as above it
    assert (drawn[~whole] < np.sqrt(1.5 * 8)).mean() == pytest.approx(0.5, abs=0.04)
    assert all(ScaleFactors(4, 4)(rng) == pytest.approx(4) for _ in range(20))


@pytest.mark.parametrize(("lowest", "highest"), [(1.0, 4.0), (5.0, 4.0)])
def test_empty_range_of_factors_is_refused(lowest, highest):
    with pytest.raises(ValueError, match="1 < lowest <= highest"):
        ScaleFactors(lowest, highest)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_shares_its_factor_and_so_can_be_stacked(workers):
    patch = Compose([
        RandPlanePatchd("image", planes="any", size=(6, 12 + 2 * 8), min_std=0),
        RandDegraded("image", profiles={"box": 1.0}, thickness_to_spacing=(0.5, 1.5), margin=8),
    ])  # fmt: skip
    volumes = {"ct": Volumes([1, 2], "ab")}
    dataset = MixedPatches(volumes, {"ct": patch}, 40, 0, scale_factors=ScaleFactors(1.5, 8, 0.5), batch_size=4)
    batches = list(DataLoader(dataset, batch_sampler=IterationBatches(10, 4), num_workers=workers))
    assert len(batches) == 10
    for batch in batches:
        assert (batch["positions"] == batch["positions"][0]).all()
        assert (batch["condition"][:, 0] == batch["condition"][0, 0]).all()  # 1 / K
        assert len(batch["condition"][:, 1].unique()) > 1  # the thickness is each patch's own
    assert len({float(batch["condition"][0, 0]) for batch in batches}) > 5


def test_both_sources_of_an_unpaired_batch_share_the_factor():
    patch = Compose([
        RandPlanePatchd("image", planes="any", size=(6, 28), min_std=0),
        RandDegraded("image", profiles={"box": 1.0}, thickness_to_spacing=(1, 1), margin=8),
    ])  # fmt: skip
    volumes = {"mr": Volumes([10], "a"), "ct": Volumes([1], "b")}
    dataset = UnpairedPatches(
        volumes, {"mr": patch, "ct": patch}, 30, 0, scale_factors=ScaleFactors(1.5, 8), batch_size=3
    )
    for index in range(30):
        item, first = dataset[index], dataset[index // 3 * 3]
        assert torch.equal(item["mr_positions"], item["ct_positions"])
        assert torch.equal(item["mr_positions"], first["mr_positions"])


def test_bad_sources_are_refused():
    volumes = {"ct": Volumes([1], "a")}
    with pytest.raises(ValueError, match="transforms must have one for every source, got none for 'ct'"):
        MixedPatches(volumes, {"mr": transform()}, 5, 0, **FOUR)
    with pytest.raises(ValueError, match="weights must have a positive one"):
        MixedPatches(volumes, {"ct": transform()}, 5, 0, **FOUR, weights={"ct": 0})


def test_the_list_ends_where_it_says():
    dataset = mixed(length=3, noise=0)
    assert len(dataset) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError):
            dataset[index]


def test_without_weights_all_sources_are_drawn_alike():
    volumes = {"ct": Volumes([1], "a"), "mr": Volumes([10], "b")}
    dataset = MixedPatches(volumes, {"ct": transform(), "mr": transform()}, 1000, 0, **FOUR)
    from_mr = sum(float(dataset[i]["image"].mean()) > 5 for i in range(1000))
    assert 440 < from_mr < 560


def test_volumes_are_drawn_by_their_shares():
    volumes = Volumes([1, 2, 3], "abc")
    volumes.shares = [0.1, 0.9, 0.0]
    found = [
        float(MixedPatches({"ct": volumes}, {"ct": transform()}, 500, 0, **FOUR)[i]["image"].mean()) for i in range(500)
    ]
    assert 420 < found.count(2.0) < 480
    assert 3.0 not in found


class Echo:
    """A transform that gives back the K it was asked for, and what it does not need."""

    def __call__(self, item):
        return {"image": item["image"], "k": torch.tensor(item["scale_factor"]), "note": "no tensor"}


def test_a_batch_shares_one_factor_and_batches_differ():
    volumes = {"mr": Volumes([1], "a"), "ct": Volumes([2], "b")}
    settings = {"scale_factors": lambda rng: float(rng.uniform(1, 9)), "batch_size": 5}
    single = MixedPatches({"ct": volumes["ct"]}, {"ct": Echo()}, 40, 3, **settings)
    pairs = UnpairedPatches(volumes, {"mr": Echo(), "ct": Echo()}, 40, 3, **settings)
    factors = [float(single[i]["k"]) for i in range(40)]
    assert all(len(set(factors[i : i + 5])) == 1 for i in range(0, 40, 5))
    assert len(set(factors)) == 8
    assert factors == [float(pairs[i]["mr_k"]) for i in range(40)] == [float(pairs[i]["ct_k"]) for i in range(40)]
    other = MixedPatches({"ct": volumes["ct"]}, {"ct": Echo()}, 40, 4, **settings)
    assert not set(factors) & {float(other[i]["k"]) for i in range(40)}
    assert pairs[0].keys() == {"mr_image", "mr_k", "ct_image", "ct_k"}


def test_whole_factors_are_those_within_the_range():
    rng = np.random.default_rng(0)
    assert ScaleFactors(2.5, 4, whole=1.0).whole_factors == [3, 4]
    assert ScaleFactors(1.5, 4).whole_factors == []
    assert {ScaleFactors(4, 4, whole=1.0)(rng) for _ in range(9)} == {4.0}
    assert ScaleFactors(1.2, 1.8, whole=1.0)(rng) < 1.8
    assert isinstance(ScaleFactors(2, 8, whole=1.0)(rng), float)
