# SPDX-License-Identifier: Apache-2.0
"""Voxels and places, beside three other readers: ITK (SimpleITK), highdicom and dcm2niix."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGExtended12Bit, RLELossless
from scripts.dicom import codecs, headers
from scripts.dicom.discovery import SeriesCandidate, discover
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError, Reason

from tests.conftest import make_affine
from tests.dicom.synthetic import ENCODINGS, LOSSLESS, ramp_series, write_series

ARRAY, AFFINE = ramp_series()
ORIENTATIONS = {
    "axial": make_affine([2.0, 1.5, 6.0]),
    "axial from the feet": make_affine([2.0, 1.5, 6.0], flip=(-1, -1, -1)),
    "sagittal": make_affine([1.5, 1.2, 4.0], permute=(1, 2, 0), flip=(-1, -1, 1)),
    "coronal": make_affine([1.5, 1.2, 4.0], permute=(0, 2, 1), flip=(-1, -1, -1)),
    "oblique": make_affine([1.5, 1.2, 4.0], rotate=(13, -21, 34), permute=(1, 2, 0)),
    "left-handed in the file": make_affine([1.0, 1.0, 3.0], flip=(1, 1, -1)),
}


def only_series(folder) -> SeriesCandidate:
    found = discover(folder)
    assert not found.refused
    assert not found.files
    return found.series[0]


def reason_of(folder):
    with pytest.raises(CaseError) as caught:
        read_series(only_series(folder))
    return caught.value.reason


def read_with_itk(files) -> tuple[np.ndarray, np.ndarray]:
    """Array ``(I, J, K)`` and RAS affine by ITK's GDCM reader, given files in order of position."""
    image = SimpleITK.ReadImage([str(file) for file in files], SimpleITK.sitkFloat64)
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ lps


@pytest.mark.parametrize("affine", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_orientation_is_read_as_itk_reads_it(tmp_path, affine):
    array = ramp_series(offset=4000)[0]
    write_series(tmp_path, array, affine)
    series = only_series(tmp_path)
    volume = read_series(series)
    theirs, their_affine = read_with_itk(series.files)
    np.testing.assert_array_equal(volume.array, theirs)
    np.testing.assert_allclose(volume.affine_ras, their_affine, atol=1e-4)
    # the file's order may run against the affine it was written with: same voxels at the same places
    flipped = np.sign(volume.affine_ras[:3, 2] @ affine[:3, 2]) < 0
    np.testing.assert_array_equal(volume.array, array[:, :, ::-1] if flipped else array)
    corner = np.array([0, 0, array.shape[2] - 1 if flipped else 0, 1])
    np.testing.assert_allclose(volume.affine_ras[:3, 3], (affine @ corner)[:3], atol=1e-4)


@pytest.mark.parametrize("affine", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_orientation_is_where_dcm2niix_puts_it(tmp_path, affine):
    """dcm2niix stores axes in its own order, so voxels are compared by their place in the world."""
    array = ramp_series(offset=4000)[0]
    write_series(tmp_path / "in", array, affine)
    volume = read_series(only_series(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    program = Path(sys.executable).with_name("dcm2niix")
    command = [program, "-b", "n", "-z", "n", "-f", "x", "-o", tmp_path / "out", tmp_path / "in"]
    subprocess.run(command, check=True, capture_output=True)
    theirs = nib.load(tmp_path / "out" / "x.nii")
    rng = np.random.default_rng(0)
    ijk = np.stack([rng.integers(0, n, 200) for n in volume.array.shape])
    world = volume.affine_ras[:3, :3] @ ijk + volume.affine_ras[:3, 3:]
    inverse = np.linalg.inv(theirs.affine)
    their_ijk = inverse[:3, :3] @ world + inverse[:3, 3:]
    np.testing.assert_allclose(their_ijk, np.rint(their_ijk), atol=1e-3)
    their_values = np.asarray(theirs.dataobj)[tuple(np.rint(their_ijk).astype(int))]
    np.testing.assert_array_equal(volume.array[tuple(ijk)], their_values)


def test_geometry_as_highdicom_sees_it(tmp_path):
    from highdicom import get_volume_from_series

    files = write_series(tmp_path, ARRAY, AFFINE)
    theirs = get_volume_from_series([pydicom.dcmread(file) for file in files])
    volume = read_series(only_series(tmp_path))
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    # highdicom's axes are slices (against the normal), rows, columns
    reordered = (lps_to_ras @ theirs.affine)[:, [2, 1, 0, 3]]
    reordered[:, 3] += (len(files) - 1) * reordered[:, 2]
    reordered[:, 2] *= -1
    np.testing.assert_allclose(volume.affine_ras, reordered, atol=1e-4)
    np.testing.assert_array_equal(volume.array, np.transpose(theirs.array, (2, 1, 0))[:, :, ::-1])


VALUES = {
    "12 bits": {"bits_stored": 12},
    "16 bits": {"bits_stored": 16},
    "signed 12 bits": {"bits_stored": 12, "signed": True},
    "signed 16 bits": {"bits_stored": 16, "signed": True},
    "8 bits": {"bits_allocated": 8, "bits_stored": 8},
}


@pytest.mark.parametrize("bits", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS)
def test_every_lossless_encoding_gives_every_value_back(tmp_path, syntax, bits):
    """Random values over the whole range of the bits, the extremes among them."""
    low = -(2 ** (bits["bits_stored"] - 1)) if bits.get("signed") else 0
    high = low + 2 ** bits["bits_stored"] - 1
    columns = 36 if syntax == LOSSLESS["jpeg-lossless"] else 37  # odd sizes need padding, which GDCM cannot encode
    array = np.random.default_rng(1).integers(low, high + 1, (columns, 33, 3), dtype=np.int32)
    array[0, 0], array[1, 1] = low, high
    write_series(tmp_path, array, AFFINE, transfer_syntax=syntax, **bits)
    volume = read_series(only_series(tmp_path))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.stored_dtype == np.dtype(f"{'' if low else 'u'}int{bits.get('bits_allocated', 16)}")


def test_lossy_encoding_is_close_and_marked(tmp_path):
    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=ENCODINGS["jpeg-2000-lossy"])
    volume = read_series(only_series(tmp_path))
    assert 0 < np.abs(volume.array - ARRAY).max() < 20
    assert volume.meta["lossy"] is True


def test_32_bits(tmp_path):
    array = np.random.default_rng(2).integers(0, 2**24, (9, 8, 3)).astype(np.int64)
    write_series(tmp_path, array, AFFINE, bits_allocated=32)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array, array)


def test_32_bits_that_single_precision_cannot_hold_are_refused(tmp_path):
    write_series(tmp_path, np.full((9, 8, 3), 2**24 + 1, dtype=np.int64), AFFINE, bits_allocated=32)
    assert reason_of(tmp_path) == Reason.TOO_LARGE


def test_rescale_of_each_slice(tmp_path):
    """The first slice has whole numbers, later ones fractions and negative values: no cast follows the first."""
    rescale = [(1.0, 0.0), (0.5, -3000.25), *((0.1 + 0.3 * k, 7.0 - 100 * k) for k in range(10))]
    write_series(tmp_path, ARRAY, AFFINE, rescale=rescale)
    volume = read_series(only_series(tmp_path))
    slope, intercept = np.array(rescale).T
    np.testing.assert_array_equal(volume.array, (ARRAY * slope + intercept).astype(np.float32))
    assert volume.stored_dtype == np.float32
    assert volume.array.min() < 0


def test_rescale_as_itk_applies_it(tmp_path):
    write_series(tmp_path, ARRAY, AFFINE, rescale=[(0.25, -12.5)] * 12)
    series = only_series(tmp_path)
    np.testing.assert_allclose(read_series(series).array, read_with_itk(series.files)[0], rtol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_junk_in_high_bits_is_no_signal(tmp_path, signed):
    """Overlays used to live above the stored bits; ITK masks them as well."""
    array = ARRAY - 2000 if signed else ARRAY

    def edit(k, ds):
        words = np.frombuffer(ds.PixelData, "<u2").copy()
        ds.PixelData = ((words & 0x0FFF) | np.uint16((k % 16) << 12)).tobytes()
        return ds

    write_series(tmp_path, array, AFFINE, bits_stored=12, signed=signed, edit=edit)
    series = only_series(tmp_path)
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.array, read_with_itk(series.files)[0])


def test_bits_in_the_middle_of_the_word(tmp_path):
    def edit(k, ds):
        ds.HighBit = 13
        words = np.frombuffer(ds.PixelData, "<u2")
        ds.PixelData = (words << 2 | 0xC003).astype("<u2").tobytes()
        return ds

    write_series(tmp_path, ARRAY, AFFINE, bits_stored=12, edit=edit)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array, ARRAY)


def test_8_bits_in_big_endian_words(tmp_path):
    """OW data are swapped in words, whatever the bits that they hold."""
    array = ARRAY % 251

    def edit(k, ds):
        ds.PixelData = np.frombuffer(ds.PixelData, "u2").byteswap().tobytes()
        ds["PixelData"].VR = "OW"
        return ds

    write_series(tmp_path, array, AFFINE, bits_allocated=8, transfer_syntax=ExplicitVRBigEndian, edit=edit)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array, array)


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_inverted_as_itk_inverts_it(tmp_path, signed):
    array = ARRAY - 2000 if signed else ARRAY

    def edit(k, ds):
        ds.PhotometricInterpretation = "MONOCHROME1"
        return ds

    bits = 16 if signed else 12  # ITK does not invert signed 12 bits
    write_series(tmp_path, array, AFFINE, bits_stored=bits, signed=signed, edit=edit)
    series = only_series(tmp_path)
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array, (-1 if signed else 4095) - array)
    np.testing.assert_array_equal(volume.array, read_with_itk(series.files)[0])
    assert volume.meta["inverted"] is True


def masked_by_field_of_view(array, value):
    """A round field of view, and the mask of what lies outside."""
    i, j = np.indices(array.shape[:2]) - np.array(array.shape[:2]).reshape(2, 1, 1) // 2
    outside = np.broadcast_to((i**2 + j**2 > 200)[..., None], array.shape)
    return np.where(outside, value, array), outside


@pytest.mark.parametrize(
    ("signed", "rescale", "stated", "there", "value"),
    [
        (True, (1, 0), -32768, -32768, -32768),
        (True, (1, 0), 32768, -32768, -32768),  # written as US although the pixels are signed
        (False, (1, 0), 65535, 65535, 65535),
        (False, (1, 0), -1, 65535, 65535),
        (False, (0.5, -3), 0, 0, -3),
    ],
)
def test_padding_is_taken_out_and_remembered(tmp_path, signed, rescale, stated, there, value):
    stored, outside = masked_by_field_of_view(ARRAY, there)

    def pad(_, ds):
        ds.add_new("PixelPaddingValue", "SS" if stated < 0 else "US", stated)
        return ds

    write_series(tmp_path, stored, AFFINE, signed=signed, rescale=[rescale] * 12, edit=pad)
    volume = read_series(only_series(tmp_path))
    np.testing.assert_array_equal(volume.padding, outside)
    assert volume.padding_value == value
    truth = ARRAY * rescale[0] + rescale[1]
    np.testing.assert_array_equal(volume.array[~outside], truth[~outside])
    assert (volume.array[outside] == truth[~outside].min()).all()


def test_a_range_of_padding_and_inverted_grey_scale(tmp_path):
    stored, outside = masked_by_field_of_view(ARRAY, 3)
    stored[0, 0] = 5

    def pad(_, ds):
        ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = 3, 5
        return ds

    write_series(tmp_path, stored, AFFINE, edit=pad, signed=False, PhotometricInterpretation="MONOCHROME1")
    volume = read_series(only_series(tmp_path))
    np.testing.assert_array_equal(volume.padding, outside)
    assert volume.padding_value == 65535 - 3


def test_without_padded_voxels_there_is_no_mask(tmp_path):
    write_series(tmp_path, ARRAY, AFFINE, PixelPaddingValue=1, edit=None)
    volume = read_series(only_series(tmp_path))
    assert volume.padding is None
    assert volume.padding_value is None


def test_nothing_but_padding_is_nothing(tmp_path):
    write_series(tmp_path, np.full_like(ARRAY, 7), AFFINE, PixelPaddingValue=7)
    assert reason_of(tmp_path) is Reason.CONSTANT


@pytest.mark.parametrize(("thickness", "gap"), [("5", 1.0), ("6", 0.0), ("8", -2.0), (None, None), ("0", None)])
def test_thickness_and_gap_reach_the_volume(tmp_path, thickness, gap):
    write_series(tmp_path, ARRAY, AFFINE, SliceThickness=thickness)
    volume = read_series(only_series(tmp_path))
    assert volume.slice_thickness_mm == (None if gap is None else float(thickness))
    assert volume.meta["slice_gap_mm"] == (None if gap is None else pytest.approx(gap, abs=1e-6))
    assert volume.meta["slice_spacing_mm"] == pytest.approx(6, abs=1e-6)


def recode(change):
    """Fault in the compressed stream of slice 1."""

    def edit(k, ds):
        if k == 1:
            ds.PixelData = encapsulate([change(get_frame(ds.PixelData, 0, number_of_frames=1))])
            ds["PixelData"].is_undefined_length = True
        return ds

    return edit


@pytest.mark.parametrize(
    ("syntax", "change", "reason"),
    [
        (LOSSLESS["jpeg-2000"], lambda s: s[: len(s) // 2], Reason.TRUNCATED),
        (LOSSLESS["jpeg-ls"], lambda s: s[: len(s) // 2], Reason.TRUNCATED),
        (LOSSLESS["jpeg-lossless"], lambda s: s[: len(s) // 2], Reason.TRUNCATED),
        # a size in the stream that is not the header's: a bomb, or another image
        (LOSSLESS["jpeg-2000"], lambda s: s[:8] + b"\0\1\0\0\0\1\0\0" + s[16:], Reason.UNREADABLE),
        (LOSSLESS["jpeg-ls"], lambda s: s.replace(b"\0\x20\0\x24", b"\x7f\xff\x7f\xff"), Reason.UNREADABLE),
        (LOSSLESS["jpeg-lossless"], lambda s: s.replace(b"\0\x20\0\x24", b"\x7f\xff\x7f\xff"), Reason.UNREADABLE),
        (LOSSLESS["jpeg-ls"], lambda s: b"no stream\xff\xd9", Reason.UNREADABLE),
        (RLELossless, lambda s: s[:70], Reason.UNREADABLE),
        (RLELossless, lambda s: b"\0" * 64, Reason.UNREADABLE),
    ],
)
def test_damaged_streams(tmp_path, syntax, change, reason):
    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=syntax, edit=recode(change))
    assert reason_of(tmp_path) == reason


def test_padding_behind_a_stream_is_no_damage(tmp_path):
    """Real files are padded with 00 or FF."""
    edit = recode(lambda s: s + b"\xff" * (2 - len(s) % 2))
    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=JPEG2000Lossless, edit=edit)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array, ARRAY)


def test_a_stream_in_several_fragments_without_offsets(tmp_path):
    def edit(k, ds):
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        cut = len(frame) // 4 * 2
        parts = [frame[:cut], frame[cut:] + b"\0" * (len(frame) % 2)]
        items = b"".join(b"\xfe\xff\x00\xe0" + len(p).to_bytes(4, "little") + p for p in [b"", *parts])
        ds.PixelData = items + b"\xfe\xff\xdd\xe0\0\0\0\0"
        return ds

    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=JPEG2000Lossless, edit=edit)
    np.testing.assert_array_equal(read_series(only_series(tmp_path)).array, ARRAY)


def test_values_beyond_the_stated_bits_are_refused(tmp_path):
    """The stream holds 16 bits, the header says 11: masking would wrap."""

    def edit(k, ds):
        ds.BitsStored, ds.HighBit = 11, 10
        return ds

    write_series(tmp_path, ARRAY + 3000, AFFINE, transfer_syntax=LOSSLESS["jpeg-lossless"], edit=edit)
    assert reason_of(tmp_path) == Reason.UNREADABLE


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.58", JPEGExtended12Bit, "1.2.840.10008.1.2.4.99"],
)
def test_no_decoder(tmp_path, syntax):
    """Retired JPEG, 12-bit lossy JPEG, and a number that nobody knows."""

    def edit_file(k, data):
        return data.replace(JPEG2000Lossless.encode(), syntax.encode())

    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=JPEG2000Lossless, bits_stored=12, edit_file=edit_file)
    assert reason_of(tmp_path) == Reason.NO_DECODER


def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch):
    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=LOSSLESS["jpeg-ls"])
    monkeypatch.setattr(codecs, "jpeg_ls", None)
    with pytest.raises(CaseError, match="pyjpegls") as caught:
        read_series(only_series(tmp_path))
    assert caught.value.reason == Reason.NO_DECODER


def test_syntax_and_pixels_that_contradict_each_other(tmp_path):
    def edit_file(k, data):
        return data.replace(RLELossless.encode() + b"\0", ExplicitVRLittleEndian.encode() + b"\0")

    write_series(tmp_path, ARRAY, AFFINE, transfer_syntax=RLELossless, edit_file=edit_file)
    assert reason_of(tmp_path) == Reason.UNREADABLE


def test_modality_table_is_refused(tmp_path):
    write_series(tmp_path, ARRAY, AFFINE, ModalityLUTSequence=[pydicom.Dataset()])
    assert [refused.error.reason for refused in discover(tmp_path).refused] == [Reason.UNREADABLE]


def test_the_order_of_files_in_a_candidate_does_not_matter(tmp_path):
    """A candidate made by hand is put into order, and checked, again."""
    write_series(tmp_path, ARRAY, AFFINE)
    series = only_series(tmp_path)
    mixed = dataclasses.replace(series, slices=series.slices[::-1])
    np.testing.assert_array_equal(read_series(mixed).array, ARRAY)
    with pytest.raises(CaseError) as caught:
        read_series(dataclasses.replace(series, slices=series.slices[:4] + series.slices[5:]))
    assert caught.value.reason == Reason.GAP


def test_headers_are_parsed_once_for_discovery_and_reading(tmp_path, monkeypatch):
    """And a file that has changed in between is noticed all the same."""
    files = write_series(tmp_path, ARRAY, AFFINE)
    parsed = []
    parse = headers.scan_dataset
    monkeypatch.setattr(headers, "scan_dataset", lambda *given: parsed.append(given) or parse(*given))
    series = only_series(tmp_path)
    np.testing.assert_array_equal(read_series(series).array, ARRAY)
    assert len(parsed) == len(files)
    files[3].write_bytes(files[3].read_bytes() + b"\0\0")
    with pytest.raises(CaseError) as caught:
        read_series(series)
    assert caught.value.reason is Reason.CHANGED


def test_warnings_of_a_series_are_told_where_it_is_read(tmp_path, caplog):
    write_series(tmp_path, ARRAY, AFFINE, ImagesInAcquisition=99)
    series = only_series(tmp_path)
    read_series(series)
    assert f"{series.key}: COUNT_MISMATCH" in caplog.text
