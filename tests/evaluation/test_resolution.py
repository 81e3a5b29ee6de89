# SPDX-License-Identifier: Apache-2.0
"""Figures along the thick axis, on volumes whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.special import erf
from scripts.degradation import SliceProfileOperator
from scripts.evaluation.resolution import (
    THROUGH_PLANE_DEFINITIONS,
    edge_width_mm,
    fourier_resolution_mm,
    high_frequency_ratio_db,
    score_through_plane,
    sharpness_ratio,
)
from scripts.geometry import SliceGrid
from scripts.networks.interpolation import interpolate_cubic

from tests.conftest import smooth_volume


def on_axis(volume, axis):
    """The last axis moved to ``axis``."""
    return np.moveaxis(volume, -1, axis)


def spacing_of(mm, axis, other=0.7):
    return np.array([mm if a == axis else other for a in range(3)])


@pytest.mark.parametrize("axis", range(3))
def test_sharpness_ratio_of_a_sine_by_hand(axis):
    """Mean squared gradient of a sine of frequency f is (2 pi f)^2 / 2, here in cycles per mm."""
    u, v, w = np.meshgrid(np.arange(64) * 0.5, np.arange(64) * 0.5, np.arange(64) * 0.8, indexing="ij")
    f, g, h = 1 / 16, 1 / 32, 1 / 12.8  # whole periods
    volume = np.sin(2 * np.pi * f * u) + np.sin(2 * np.pi * g * v) + np.sin(2 * np.pi * h * w)
    expected = h**2 / np.mean([f**2, g**2])
    ratio = sharpness_ratio(on_axis(volume, axis), spacing_of(0.8, axis, 0.5), axis)
    assert ratio == pytest.approx(expected, rel=0.02)
    assert np.isnan(sharpness_ratio(np.ones((9, 9, 9)), np.ones(3), 2))


def blurred_step(sigma_mm, spacing_mm, n=48, slope=0.3, noise=0.0, height=500.0, seed=0):
    """A step in the plane w = 0.31 u, blurred by a Gaussian across it, so that edges fall anywhere between voxels."""
    u, w = np.arange(40) * 1.0, (np.arange(n) - n / 2) * spacing_mm
    distance = (w[None] - 0.01 * slope * u[:, None] - 0.13) / np.hypot(1, 0.01 * slope)
    plane = height * (0.5 + 0.5 * erf(distance / sigma_mm / np.sqrt(2)))
    volume = np.repeat(plane[:, None], 30, axis=1) + 40
    return volume + np.random.default_rng(seed).normal(0, noise, volume.shape)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("sigma", "spacing"), [(1.0, 1.0), (1.7, 1.0), (2.4, 1.5), (4.0, 1.0)])
def test_edge_width_of_a_blurred_step(sigma, spacing, axis):
    volume = on_axis(blurred_step(sigma, spacing), axis)
    expected = 1.0645 * 2.3548 * sigma  # FWHM = 2.3548 sigma; steepest slope = height / (sigma sqrt(2 pi))
    width = edge_width_mm(volume, spacing_of(spacing, axis), axis)
    assert width == pytest.approx(expected, rel=0.1)
    # 10-90 % rise distance, read off a finely sampled profile
    fine = np.linspace(-12, 12, 24001)
    profile = 0.5 + 0.5 * erf(fine / sigma / np.sqrt(2))
    rise = fine[np.searchsorted(profile, 0.9)] - fine[np.searchsorted(profile, 0.1)]
    assert width == pytest.approx(rise, rel=0.12)
    assert edge_width_mm(-3 * volume + 7, spacing_of(spacing, axis), axis) == pytest.approx(width, rel=1e-3)


def test_edge_width_does_not_mind_noise_shading_or_weaker_blurred_edges():
    sigma = 1.8
    expected = np.sqrt(2 * np.pi) * sigma
    volume = blurred_step(sigma, 1.0, noise=5.0)  # 1 % of the height
    assert edge_width_mm(volume, np.ones(3), 2) == pytest.approx(expected, rel=0.1)
    shaded = blurred_step(sigma, 1.0) + 2 * np.arange(48)  # in all a fifth of the height
    assert edge_width_mm(shaded, np.ones(3), 2) == pytest.approx(expected, rel=0.1)
    two = np.concatenate([blurred_step(sigma, 1.0), 540 + blurred_step(5.0, 1.0, height=200) - 40], axis=2)
    assert edge_width_mm(two, np.ones(3), 2) == pytest.approx(expected, rel=0.1)


def test_edge_width_is_the_typical_edge_s_not_the_widest_s():
    """A quarter of the edges are as steep but twice as high, so twice as wide."""
    volume = blurred_step(1.8, 1.0)
    volume[:, :8] = blurred_step(3.6, 1.0, height=1000)[:, :8]
    width = edge_width_mm(volume, np.ones(3), 2, steepest=0.05)  # all edges
    assert width == pytest.approx(np.sqrt(2 * np.pi) * 1.8, rel=0.1)


def test_edge_width_of_a_step_is_one_voxel_and_of_nothing_nan():
    volume = np.zeros((12, 12, 20))
    volume[..., 9:] = 3
    assert edge_width_mm(volume, (1, 1, 2.5), 2) == pytest.approx(2.5)
    assert np.isnan(edge_width_mm(volume, (1, 1, 2.5), 0))
    cut_off = np.zeros((12, 12, 20))
    cut_off[..., -1] = 1  # the border may hold half of an edge
    assert np.isnan(edge_width_mm(cut_off, np.ones(3), 2))


def low_pass(volume, cycles_per_voxel):
    spectrum = np.fft.rfft(volume, axis=-1)
    spectrum[..., np.fft.rfftfreq(volume.shape[-1]) > cycles_per_voxel] = 0
    return np.fft.irfft(spectrum, volume.shape[-1], axis=-1)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("cut", "spacing"), [(0.125, 1.0), (0.2, 1.3), (0.35, 0.8)])
def test_fourier_resolution_is_where_truth_ends_and_noise_begins(cut, spacing, axis):
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(24, 20, 120)) + 5
    noise = rng.normal(size=truth.shape)
    result = low_pass(truth, cut) + noise - low_pass(noise, cut)
    found = fourier_resolution_mm(on_axis(result, axis), on_axis(truth, axis), spacing_of(spacing, axis), axis)
    assert found == pytest.approx(spacing / cut, rel=0.05)


def test_fourier_resolution_of_the_truth_a_scaled_truth_and_noise():
    truth = smooth_volume((20, 22, 40), seed=1)
    assert fourier_resolution_mm(truth, truth, (1, 1, 1.5), 2) == 3.0
    assert fourier_resolution_mm(2 * truth + 9, truth, (1, 1, 1.5), 2) == 3.0
    noise = np.random.default_rng(0).normal(size=truth.shape)
    assert fourier_resolution_mm(noise, truth, (1, 1, 1.5), 2) == pytest.approx(40 * 1.5 / 2)  # the lowest bin
    # a shift by d decorrelates as cos(2 pi f d): 0.5 at f = 1 / (6 d)
    white = np.random.default_rng(1).normal(size=(30, 30, 240))
    moved = np.roll(white, 2, axis=-1)
    assert fourier_resolution_mm(moved, white, (1, 1, 1), 2) == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize("shared", ["offset", "ramp"])
def test_fourier_resolution_is_not_made_up_by_the_border_or_the_mean(shared):
    """Two unrelated noises that share a level, or a ramp whose ends do not meet, agree on no detail."""
    rng = np.random.default_rng(4)
    common = {"offset": np.full(60, 1e4), "ramp": np.linspace(0, 40, 60)}[shared]
    one, other = (rng.normal(size=(16, 16, 60)) + common for _ in range(2))
    assert fourier_resolution_mm(one, other, (1, 1, 1), 2) > 8
    assert high_frequency_ratio_db(2 * one - common, one, 2, 2) == pytest.approx(20 * np.log10(2), abs=0.3)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("factor", [2, 4])
def test_high_frequency_ratio_counts_only_its_band(axis, factor):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(18, 20, 128))
    low = low_pass(truth, 1 / (2 * factor))
    ratio = lambda volume: high_frequency_ratio_db(on_axis(volume, axis), on_axis(truth, axis), axis, factor)  # noqa: E731
    assert ratio(truth) == pytest.approx(0, abs=1e-9)
    assert ratio(low + 0.5 * (truth - low)) == pytest.approx(20 * np.log10(0.5), abs=0.1)
    assert ratio(3 * low + truth - low) == pytest.approx(0, abs=0.3)  # the other band leaks a little
    assert ratio(low) < -15
    assert ratio(np.zeros_like(truth)) == -np.inf


def test_cubic_interpolation_is_found_where_theory_puts_it():
    """All figures on thick slices of a volume with detail at every scale, interpolated, and on the volume itself."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter1d(rng.normal(size=(40, 40, 96)), 0.7, axis=2).astype(np.float32)
    for axis in (0, 1):
        truth = gaussian_filter1d(truth, 0.7, axis=axis)
    grid = SliceGrid.under_slab(96, 4)
    thick = SliceProfileOperator(grid).degrade(torch.from_numpy(truth))
    cubic = interpolate_cubic(thick, grid.positions_tensor()).numpy()
    spacing = np.array([1.0, 1.0, 1.2])
    ours, best = (score_through_plane(volume, truth, spacing, 2, 4) for volume in (cubic, truth))
    assert set(ours) == set(THROUGH_PLANE_DEFINITIONS) == set(best)
    assert best["sharpness_ratio"] == pytest.approx(1 / 1.2**2, rel=0.05)  # isotropic in voxels
    assert ours["sharpness_ratio"] < 0.3 * best["sharpness_ratio"]
    assert ours["edge_width_mm"] > 1.5 * best["edge_width_mm"]
    assert ours["edge_width_in_plane_mm"] == pytest.approx(best["edge_width_in_plane_mm"], rel=0.1)
    assert best["fourier_resolution_mm"] == pytest.approx(2.4)
    assert 8 * 1.2 * 0.85 < ours["fourier_resolution_mm"] < 8 * 1.2 * 1.5  # two thick slices: Nyquist's
    assert ours["high_frequency_ratio_db"] < -6
    assert best["high_frequency_ratio_db"] == 0


def test_short_volumes_have_no_spectrum_and_shapes_must_agree():
    truth = smooth_volume((20, 20, 7))
    assert np.isnan(fourier_resolution_mm(truth, truth, np.ones(3), 2))
    assert np.isnan(high_frequency_ratio_db(truth, truth, 2, 4))
    with pytest.raises(ValueError, match="one shape"):
        fourier_resolution_mm(truth[1:], truth, np.ones(3), 1)
