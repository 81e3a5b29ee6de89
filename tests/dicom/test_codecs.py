# SPDX-License-Identifier: Apache-2.0
"""Decoders that nobody else's tests reach from here: run lengths, our own, and HTJ2K, which no library here encodes."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless
from scripts.dicom.codecs import decode_frame, missing_package
from scripts.dicom.discovery import discover
from scripts.dicom.reading import read_series
from scripts.dicom.run_length import decode_run_lengths

from tests.dicom.synthetic import write_series
from tests.dicom.test_jpeg_lossless import IMAGES, stream_of

HTJ2K = "1.2.840.10008.1.2.4.201"
# made by OpenJPH 0.26.3 through imagecodecs 2026.3.6: imagecodecs.htj2k_encode of HTJ2K_IMAGE, unsigned and less 20000
R, C = np.mgrid[:12, :16]
HTJ2K_IMAGE = (997 * R + 331 * C + 53 * R * C) % 40000
STREAMS = {
    False: base64.b64decode(
        "/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQ"
        "kJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAALEAAf+TwAAmFcwFB3QAAMAAE0AAE0AAEwBO5wQHdADm0gSHdABk"
        "4AQHdADAABPAABPAABKAhmu7AOJUADH+/ACCNACHAEE0AMAAFXAABWwAATjQVQzK/YYW1MJWAIbRp+pjnf7Ac4G+tgAAwPDIN6QAwAAtKAAF"
        "qwAAmJTQ8gARACCvtOYAEPbScgJ5AMjHCbgQCWPsA6Zr+hjAe/ZjAey6AOj9ABBVAP/Z"
    ),
    True: base64.b64decode(
        "/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQ"
        "kJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAALEAAf+TwAAmVegEh3QAAMAAE0AAE0AAEwBO5wQHdADm0gSHdABk"
        "4AQHdADAABPAABPAABKAhmu7AOJUADH+/ACCNACHAEE0AMAAFXAABWwAATjQVQzK/YYW1MJWAIbRp+pjnf7Ac4G+tgAAwPDIN6QAwAAtKAAF"
        "qwAAmJTQ8gARACCvtOYAEPbScgJ5AMjHCbgQCWPsA6Zr+hjAe/ZjAey6AOj9ABBVAP/Z"
    ),
}


@pytest.mark.parametrize("signed", [False, True])
def test_htj2k_of_another_encoder(tmp_path, signed):
    expected = HTJ2K_IMAGE - 20000 * signed
    values, bits = decode_frame(HTJ2K, STREAMS[signed], (12, 16), 16)
    assert bits == 16
    np.testing.assert_array_equal(values, expected % 2**16)

    def edit(k, ds):
        ds.PixelData = encapsulate([STREAMS[signed]])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = UID(HTJ2K)
        return ds

    write_series(tmp_path, np.zeros((16, 12, 3), dtype=int), np.diag([1.0, 1, 4, 1]), signed=signed, edit=edit)
    (series,) = discover(tmp_path).series
    np.testing.assert_array_equal(read_series(series).array, np.repeat(expected.T[:, :, None], 3, axis=2))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_run_lengths_as_pydicom_encodes_them(tmp_path, image, bits):
    stored = image % 2**bits
    files = write_series(tmp_path, stored, np.eye(4), transfer_syntax=RLELossless, bits_allocated=bits)
    for k, file in enumerate(files):
        found = decode_run_lengths(stream_of(file), 40 * 32, bits // 8)
        np.testing.assert_array_equal(found.reshape(32, 40), stored[:, :, k].T)


def test_run_lengths_by_hand():
    """PS3.5 G.3.1: a literal run of two bytes, a byte that is skipped, three times the same byte, and padding."""
    stream = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + bytes([1, 7, 8, 128, 254, 9, 0])
    np.testing.assert_array_equal(decode_run_lengths(stream, 5, 1), [7, 8, 9, 9, 9])
    for damaged in (stream[:63], stream[:67], b"\2" + stream[1:]):
        with pytest.raises(ValueError, match="must"):
            decode_run_lengths(damaged, 5, 1)


def test_what_is_missing_is_known():
    assert missing_package(RLELossless) == ""
    assert missing_package(HTJ2K) == ""
    assert missing_package("1.2.840.10008.1.2.4.55") is None
