# SPDX-License-Identifier: Apache-2.0
"""Our lossless JPEG decoder, against two encoders: GDCM's and DCMTK's, which has all predictors."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.encaps import get_frame
from scripts.dicom.jpeg_lossless import decode_jpeg_lossless

from tests.dicom.synthetic import LOSSLESS, ramp_series, write_series

RNG = np.random.default_rng(5)
IMAGES = {
    "noise over 16 bits": RNG.integers(0, 2**16, (40, 32, 3)),
    "noise over 12 bits": RNG.integers(0, 2**12, (40, 32, 3)),
    "one bit": RNG.integers(0, 2, (40, 32, 3)),
    "constant": np.full((40, 32, 3), 1234),
    "extremes beside each other": np.indices((40, 32, 3)).sum(0) % 2 * 65535,  # differences wrap around
    "differences of 32768": np.indices((40, 32, 3)).sum(0) % 2 * 32768,
    "smooth": ramp_series(shape=(40, 32, 3))[0],
}


def stream_of(path) -> bytes:
    return get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_what_gdcm_encodes(tmp_path, image):
    files = write_series(tmp_path, image, np.eye(4), transfer_syntax=LOSSLESS["jpeg-lossless"])
    for k, file in enumerate(files):
        decoded, bits = decode_jpeg_lossless(stream_of(file))
        np.testing.assert_array_equal(decoded, image[:, :, k].T)
        assert bits == 16


@pytest.mark.system
@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="needs dcmcjpeg of dcmtk")
@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_what_dcmtk_encodes(tmp_path, image, predictor):
    file = write_series(tmp_path, image, np.eye(4))[0]
    coded = tmp_path / "coded"
    subprocess.run(["dcmcjpeg", "+el", "+sv", str(predictor), file, coded], check=True, capture_output=True)
    decoded, _ = decode_jpeg_lossless(stream_of(coded))
    np.testing.assert_array_equal(decoded, image[:, :, 0].T)


def test_damaged_streams_raise(tmp_path):
    """Nothing but ValueError and the like, whatever is in the stream; nothing is allocated beyond its size."""
    good = stream_of(write_series(tmp_path, IMAGES["smooth"], np.eye(4), transfer_syntax=LOSSLESS["jpeg-lossless"])[0])
    raised = 0
    for _ in range(500):
        stream = bytearray(good)
        for at in RNG.integers(0, len(stream), int(RNG.integers(1, 5))):
            stream[at] = RNG.integers(256)
        try:
            decode_jpeg_lossless(bytes(stream))
        except (ValueError, NotImplementedError, KeyError, IndexError):
            raised += 1
    assert raised > 50
