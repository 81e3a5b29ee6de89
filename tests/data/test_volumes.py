# SPDX-License-Identifier: Apache-2.0
import torch
from scripts.data.volumes import VolumeStore


def store(tmp_path, memory_gb):
    items = [{"image": n, "case": f"case{n}", "patient": f"p{n}"} for n in range(4)]
    return VolumeStore(
        items,
        lambda item: {"image": torch.full((1, 16, 16, 16), float(item["image"])), "spacing_mm": (1, 1, 4)},
        memory_gb,
        str(tmp_path / "spill"),
        progress=False,
    )


def test_volumes_beyond_the_bound_are_mapped_from_disk(tmp_path):
    volumes = store(tmp_path, memory_gb=2.5 * 16**3 * 4 / 2**30)
    assert len(list((tmp_path / "spill").glob("*.npy"))) == 2
    assert [float(volumes[i]["image"].mean()) for i in range(4)] == [0, 1, 2, 3]
    assert volumes.patients == ["p0", "p1", "p2", "p3"]
    assert volumes[1]["spacing_mm"] == (1.0, 1.0, 4.0)


def test_a_mapped_volume_cannot_be_spoilt(tmp_path):
    volumes = store(tmp_path, memory_gb=0)
    volumes[2]["image"][:] = 99
    assert float(store(tmp_path, 0)[2]["image"].mean()) == 2
    assert not list(tmp_path.glob("*.npy"))
