# SPDX-License-Identifier: Apache-2.0
"""The monitor of stage 2 and 3 by hand: what it measures, when it looks, when it stops the run."""

import numpy as np
import pytest
import torch
from monai.transforms import Randomizable
from scripts.training.collapse import CollapseMonitor, ThickSliceProbe, gradient_ratio, period_peak
from scripts.training.watch import TrainingDivergedError

from tests.training.toys import Recorder, Scale, engine, run


def images(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def test_gradient_ratio():
    """Along: 1 2 | 2 4 | 2 5, squared mean 54 / 6. Across: 0 1 3 | 1 1 2, squared mean 16 / 6."""
    assert gradient_ratio(images([0, 1, 3], [0, 2, 6], [1, 3, 8])) == pytest.approx(3.375)


def test_gradient_ratio_of_a_flat_image_is_finite():
    assert gradient_ratio(images([0, 0], [0, 0])) == 0.0
    assert gradient_ratio(images([0, 1e-3], [0, 1e-3])) == pytest.approx(1e6, rel=1e-3)


def test_period_peak():
    """Differences 1 0 2 0 (1): phases (1 + 4) / 2 and 0; (2.5 - 0) / 1.25."""
    assert period_peak(images([0, 1, 1, 3, 3, 4]), 2) == pytest.approx(2.0)
    assert period_peak(images([0, 1, 2, 3, 4, 5]), 2) == 0.0
    assert period_peak(images([0, 0, 0, 0]), 2) == 0.0


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_period_peak_against_numpy(factor):
    batch = torch.rand(3, 1, 5, 4 * factor, generator=torch.Generator().manual_seed(factor))
    squares = np.diff(batch.numpy(), axis=-1) ** 2
    phases = [squares[..., phase : 3 * factor : factor].mean() for phase in range(factor)]
    assert period_peak(batch, factor) == pytest.approx((max(phases) - min(phases)) / np.mean(phases), rel=1e-5)


def test_a_grid_is_seen_and_only_at_its_own_period():
    smooth = torch.linspace(0, 1, 32).expand(1, 1, 4, 32)
    grid = smooth + 0.2 * (torch.arange(32) % 4 == 0)
    assert period_peak(grid, 4) > 1
    assert period_peak(smooth, 4) < 1e-3


class Looks:
    """One image per look; K = 2."""

    scale_factor = 2

    def __init__(self, *series):
        self.waiting = list(series)

    def __call__(self):
        return self.waiting.pop(0)


def sharp(s):
    """Gradient ratio ``s * s``, no period."""
    return images([0, s, 2 * s, 3 * s], [1, 1 + s, 1 + 2 * s, 1 + 3 * s])


def periodic(p):
    """Period-2 figure: differences 1 + p, 1 - p, 1 + p."""
    d = ((1 + p) ** 0.5, (1 - p) ** 0.5, (1 + p) ** 0.5, (1 - p) ** 0.5)
    line = np.cumsum([0, *d]).tolist()
    return images(line, [x + 1 for x in line])


def monitor(probe, max_growth=100.0, max_peak=100.0, interval=1, writer=None):
    return CollapseMonitor(probe, interval, max_growth, max_peak, writer)


def test_it_looks_at_the_start_and_at_intervals():
    writer, made = Recorder(), engine()
    monitor(Looks(sharp(1), sharp(2), sharp(3)), interval=2, writer=writer).attach(made)
    run(made, 5)
    assert writer.scalars["collapse/gradient_ratio"] == [
        (step, pytest.approx(value)) for step, value in ((0, 1), (2, 4), (4, 9))
    ]
    assert [step for step, _ in writer.scalars["collapse/period_peak"]] == [0, 2, 4]


def test_growth_is_measured_from_the_start():
    made = engine()
    monitor(Looks(sharp(2), sharp(2.4), sharp(2.5)), max_growth=1.5).attach(made)
    with pytest.raises(TrainingDivergedError) as caught:
        run(made, 9)
    assert made.state.iteration == 2
    assert "gradient ratio 6.250 (start 4.000)" in str(caught.value)
    assert "at iteration 2" in str(caught.value)
    assert "max_gradient_growth" in str(caught.value)


def test_a_grid_alone_stops_the_run_when_it_exceeds_the_start_by_the_bound():
    """Figure ``2 p``: from 0.2 to 1.1 is 0.9 more, to 1.3 is 1.1 more."""
    made = engine()
    monitor(Looks(periodic(0.1), periodic(0.55), periodic(0.65)), max_peak=1.0).attach(made)
    with pytest.raises(TrainingDivergedError, match=r"period-2 figure 1\.300 \(start 0\.200\)"):
        run(made, 9)
    assert made.state.iteration == 2


def test_a_resumed_run_compares_with_the_first_start():
    made = engine()
    handler = monitor(Looks(sharp(1), sharp(1), sharp(1.1), sharp(1.1)), max_growth=1.5)
    handler.attach(made)
    run(made, 1)
    assert handler.first == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-6))
    run(made, 1)
    assert handler.first[0] == pytest.approx(1.0)


class Crop(Randomizable):
    """A random square of the volume's first plane, and what it was asked for."""

    def __call__(self, item):
        i, j = (int(self.R.randint(8)) for _ in range(2))
        k = item["scale_factor"]
        told = {"positions": torch.arange(6.0) / k, "condition": torch.full((4,), k), "note": "kept out"}
        return {"image": item["image"][:, i : i + 8, j : j + 6, 0], **told}


def test_the_probe_shows_the_network_of_now_on_always_the_same_slices():
    generator = torch.Generator().manual_seed(0)
    volumes = [{"image": torch.rand(1, 16, 16, 8, generator=generator), "spacing_mm": (1.0, 1.0, 4.0)}]
    network = Scale(1)
    probes = [ThickSliceProbe(network, volumes, Crop(), count=3, scale_factor=2) for _ in range(2)]
    first, again = (probe() for probe in probes)
    assert first.shape == (3, 1, 8, 6)
    assert network.told == ((0.0, 0.5, 1.0, 1.5, 2.0, 2.5), [[2.0] * 4] * 3)
    assert torch.equal(first, again)
    assert len({float(image.mean()) for image in first}) == 3
    assert not first.requires_grad
    network.w.data.fill_(2.0)
    torch.testing.assert_close(probes[0](), 2 * first)


def test_the_probe_answers_in_float32_whatever_the_network_computes_in():
    class Coarse(Scale):
        def forward(self, *inputs):
            return super().forward(*inputs).bfloat16()

    volumes = [{"image": torch.rand(1, 16, 16, 8), "spacing_mm": (1.0, 1.0, 4.0)}]
    assert ThickSliceProbe(Coarse(1), volumes, Crop(), count=1, scale_factor=2)().dtype == torch.float32
