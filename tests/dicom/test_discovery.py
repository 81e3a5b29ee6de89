# SPDX-License-Identifier: Apache-2.0
"""Discovery does not depend on names, order or folders; random series, some with a random fault, judged by truth."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.dicom.discovery import discover
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError, Reason

from tests.conftest import make_affine, world_ramp
from tests.dicom.synthetic import LOSSLESS, ramp_series, write_series
from tests.dicom.test_fault_matrix import REFUSED

ARRAY, AFFINE = ramp_series()


def test_names_folders_and_order_do_not_matter(tmp_path):
    """Keys, patient and voxels are equal for any arrangement of the same files."""
    files = write_series(tmp_path / "plain", ARRAY, AFFINE)
    rng = np.random.default_rng(0)
    (plain,) = discover(tmp_path / "plain").series
    for trial in range(3):
        root = tmp_path / f"mixed{trial}"
        for i, k in enumerate(rng.permutation(len(files))):
            folder = root / str(rng.integers(3)) / str(rng.integers(2))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}").write_bytes(files[k].read_bytes())
        (mixed,) = discover(root).series
        assert (mixed.key, mixed.patient) == (plain.key, plain.patient)
        assert [file.read_bytes() for file in mixed.files] == [file.read_bytes() for file in plain.files]


def test_an_unknown_modality_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match=r"modality must be one of .* got 'PT'"):
        discover(tmp_path, "PT")


def test_an_empty_tree(tmp_path):
    assert discover(tmp_path).all_paths() == []


def random_series(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict]:
    """Any orientation, non-square pixels, gap, encoding and file order; values linear in position."""
    spacing = [*rng.uniform(0.4, 2.0, 2), rng.uniform(3, 9)]
    affine = make_affine(
        spacing,
        rotate=rng.uniform(-60, 60, 3),
        origin=rng.uniform(-200, 200, 3),
        permute=tuple(rng.permutation(3)),
        flip=tuple(rng.choice([-1, 1], 3)),
    )
    shape = (int(rng.integers(33, 40)) // 2 * 2, int(rng.integers(33, 40)), int(rng.integers(12, 16)))
    array = np.rint(world_ramp(shape, affine, gradient=(3, 5, 7), offset=0)).astype(np.int32)
    array += 100 - array.min()
    order = rng.permutation(1000)
    keywords = {
        "transfer_syntax": list(LOSSLESS.values())[rng.integers(len(LOSSLESS))],
        "SliceThickness": f"{spacing[2] * rng.uniform(0.5, 1.2):.3f}",
        "name": lambda i: f"{order[i]:04d}",
    }
    return array, affine, keywords


def same_places(volume, array, affine) -> bool:
    """Whether every voxel of the volume holds what was written at its place, and nothing is missing."""
    if volume.array.shape != array.shape:
        return False
    ijk = np.indices(array.shape).reshape(3, -1)
    world = volume.affine_ras[:3, :3] @ ijk + volume.affine_ras[:3, 3:]
    inverse = np.linalg.inv(affine)
    back = inverse[:3, :3] @ world + inverse[:3, 3:]
    there = np.rint(back).astype(int)
    inside = (there >= 0).all() and (there < np.array(array.shape)[:, None]).all()
    return bool(inside and np.abs(back - there).max() < 0.01 and (array[tuple(there)] == volume.array.ravel()).all())


@pytest.mark.parametrize("seed", range(24))
def test_random_series_come_out_exactly(tmp_path, seed):
    array, affine, keywords = random_series(np.random.default_rng(seed))
    write_series(tmp_path, array, affine, **keywords)
    found = discover(tmp_path)
    assert not found.refused
    (series,) = found.series
    assert same_places(read_series(series), array, affine)


GENERAL = sorted(
    name for name in REFUSED if not name.startswith(("10 orientation turns", "10 one", "11", "12", "27", "37"))
)


@pytest.mark.parametrize("seed", range(24))
def test_random_series_with_a_random_fault_never_come_out_wrong(tmp_path, seed):
    """Exact, or refused by the fault's name: nothing else counts."""
    rng = np.random.default_rng(1000 + seed)
    array, affine, keywords = random_series(rng)
    edit, reason = REFUSED[GENERAL[rng.integers(len(GENERAL))]]
    keywords["transfer_syntax"] = LOSSLESS["explicit"] if reason is Reason.NONFINITE else keywords["transfer_syntax"]
    write_series(tmp_path, array, affine, edit=edit, **keywords)
    found = discover(tmp_path)
    reasons = {refused.error.reason for refused in found.refused}
    for series in found.series:
        with pytest.raises(CaseError) as caught:
            read_series(series)
        reasons.add(caught.value.reason)
    assert reasons == {reason}
