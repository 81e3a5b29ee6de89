# SPDX-License-Identifier: Apache-2.0
"""Multi-frame objects and mosaics: the same voxels at the same places as the classic form, or a refusal by name."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid
from scripts.dicom.discovery import discover
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError, Reason

from tests.dicom.synthetic import as_mosaic, dataset_bytes, ramp_series, write_enhanced, write_series

ARRAY, AFFINE = ramp_series()
N = ARRAY.shape[2]


def volumes(folder):
    found = discover(folder)
    assert not found.refused, found.refused
    return {series.key.partition("-")[2]: read_series(series) for series in found.series}


def reasons(folder) -> set[Reason]:
    found = discover(folder)
    result = {refused.error.reason for refused in found.refused}
    for series in found.series:
        try:
            read_series(series)
            result.add("OK")
        except CaseError as error:
            result.add(error.reason)
    return result


def assert_same(volume, array, affine):
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine_ras, affine, atol=1e-4)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_shuffled_frames_come_out_in_order(tmp_path, syntax):
    order = np.random.default_rng(0).permutation(N)
    settings = {} if syntax is None else {"transfer_syntax": syntax}
    write_enhanced(tmp_path / "x.dcm", [(ARRAY, AFFINE, {})], order=order, **settings)
    volume = volumes(tmp_path)[""]
    assert_same(volume, ARRAY, AFFINE)
    assert volume.slice_thickness_mm == pytest.approx(5)
    assert volume.stored_dtype == np.uint16
    assert volume.meta["body_part"] == "head"


def test_highdicom_reads_the_same_voxels_at_the_same_places(tmp_path):
    path = write_enhanced(tmp_path / "x.dcm", [(ARRAY, AFFINE, {})], order=np.random.default_rng(1).permutation(N))
    theirs = highdicom.imread(path).get_volume()
    volume = volumes(tmp_path)[""]
    ours = {tuple(np.round(np.diag([-1, -1, 1, 1]) @ volume.affine_ras @ [i, j, k, 1], 3)[:3]): volume.array[i, j, k]
            for i, j, k in ((0, 0, 0), (35, 31, 11), (3, 20, 7))}  # fmt: skip
    for place, value in ours.items():
        k, j, i = theirs.map_reference_to_indices(np.array([place]), round_output=True)[0]
        assert theirs.array[k, j, i] == value


def test_the_rescale_of_each_frame_counts(tmp_path):
    facts = {"RescaleSlope": lambda k: f"{1 + k / 4}", "RescaleIntercept": lambda k: str(-k)}
    write_enhanced(tmp_path / "x.dcm", [(ARRAY, AFFINE, facts)])
    k = np.arange(N)
    assert_same(volumes(tmp_path)[""], ARRAY * (1 + k / 4) - k, AFFINE)


TOLD_APART = {
    "echoes": (["echo1", "echo2"], [{"EffectiveEchoTime": 20.0}, {"EffectiveEchoTime": 80.0}]),
    "times": (["time1", "time2", "time3"], [{"TemporalPositionIndex": i} for i in (1, 2, 3)]),
    "acquisitions": (["time1", "time2"], [{"FrameAcquisitionNumber": i} for i in (1, 2)]),
    "phases": (["time1", "time2"], [{"NominalCardiacTriggerDelayTime": t} for t in (10.0, 90.0)]),
    "weightings": (
        ["b0", "b1000-direction1", "b1000-direction2"],
        [{"DiffusionBValue": 0.0}, *({"DiffusionBValue": 1000.0, "gradient": g} for g in ([1.0, 0, 0], [0, 1.0, 0]))],
    ),
    "an index that only the file knows": (
        ["time1", "time2"],
        [{"DimensionIndexValues": lambda k, i=i: [i, k + 1]} for i in (1, 2)],
    ),
    "types": (
        ["type1", "type2"],
        [{"FrameType": ["ORIGINAL", "PRIMARY", kind, "NONE"]} for kind in ("IN_PHASE", "OUT_OF_PHASE")],
    ),
}


def index_by_time_and_place(ds):
    """Two dimensions: a private one, and the place."""
    ds.DimensionIndexSequence = [pydicom.Dataset(), pydicom.Dataset()]
    ds.DimensionIndexSequence[0].DimensionIndexPointer = 0x20051012
    ds.DimensionIndexSequence[1].DimensionIndexPointer = 0x00200032


@pytest.mark.parametrize(("names", "facts"), TOLD_APART.values(), ids=TOLD_APART)
@pytest.mark.parametrize("interleaved", [False, True])
def test_volumes_of_one_file_are_told_apart(tmp_path, names, facts, interleaved):
    parts = [(ARRAY + 1000 * i, AFFINE, one) for i, one in enumerate(facts)]
    order = np.arange(len(parts) * N).reshape(len(parts), N).T.ravel() if interleaved else None
    write_enhanced(tmp_path / "x.dcm", parts, order=order, edit=index_by_time_and_place)
    got = volumes(tmp_path)
    assert list(got) == names
    for i, volume in enumerate(got.values()):
        assert_same(volume, ARRAY + 1000 * i, AFFINE)


@pytest.mark.parametrize("stated", [False, True])
def test_stacks_of_one_file_are_told_apart(tmp_path, stated):
    stacks = [ramp_series(shape=(36, 32, 4), rotate=(6 * i, 0, 0)) for i in range(3)]
    write_enhanced(tmp_path / "x.dcm", [(*one, {"StackID": str(i)} if stated else {}) for i, one in enumerate(stacks)])
    got = volumes(tmp_path)
    assert list(got) == ["stack1", "stack2", "stack3"]
    for volume, truth in zip(got.values(), stacks, strict=True):
        assert_same(volume, *truth)


def test_one_series_in_several_files(tmp_path):
    """One file per time point, as some scanners export it: only the number of the file tells."""
    for i in range(3):
        uid = generate_uid(entropy_srcs=[str(i)])
        write_enhanced(tmp_path / f"{2 - i}.dcm", [(ARRAY + i, AFFINE, {})], InstanceNumber=i + 1, SOPInstanceUID=uid)
    for i, volume in enumerate(volumes(tmp_path).values()):
        assert_same(volume, ARRAY + i, AFFINE)


@pytest.mark.parametrize("rescale", [None, [(1 + k / 4, -k) for k in range(N)]])
def test_classic_and_legacy_converted_form_of_one_series_are_the_same(tmp_path, rescale):
    """A made pair by highdicom's converter."""
    files = write_series(tmp_path / "classic", ARRAY, AFFINE, rescale=rescale)
    converted = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        [pydicom.dcmread(file) for file in files],
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    (tmp_path / "converted").mkdir()
    converted.save_as(tmp_path / "converted" / "x.dcm")
    classic, enhanced = volumes(tmp_path / "classic")[""], volumes(tmp_path / "converted")[""]
    np.testing.assert_array_equal(enhanced.array, classic.array)
    np.testing.assert_allclose(enhanced.affine_ras, classic.affine_ras, atol=1e-4)
    assert enhanced.slice_thickness_mm == classic.slice_thickness_mm
    assert enhanced.stored_dtype == classic.stored_dtype


def without_last_description(ds):
    del ds.PerFrameFunctionalGroupsSequence[-1]


def without_descriptions(ds):
    del ds.PerFrameFunctionalGroupsSequence


def without_a_position(ds):
    del ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def twice_at_one_place(ds):
    groups = ds.PerFrameFunctionalGroupsSequence
    groups[4].PlanePositionSequence = groups[3].PlanePositionSequence


def cut_pixels(ds):
    ds.PixelData = ds.PixelData[:-1000]


FAULTS = {
    "a frame that is not described": (without_last_description, Reason.ENHANCED_UNSUPPORTED),
    "no descriptions": (without_descriptions, Reason.ENHANCED_UNSUPPORTED),
    "a frame without position": (without_a_position, Reason.NO_GEOMETRY),
    "two frames at one place": (twice_at_one_place, Reason.DUPLICATE_POSITION),
    "fewer pixels than frames": (cut_pixels, Reason.TRUNCATED),
}


@pytest.mark.parametrize(("edit", "reason"), FAULTS.values(), ids=FAULTS)
def test_faults_are_refused_by_name(tmp_path, edit, reason):
    write_enhanced(tmp_path / "x.dcm", [(ARRAY, AFFINE, {})], edit=edit)
    assert reasons(tmp_path) == {reason}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"VolumetricProperties": "SAMPLED"}, Reason.ALREADY_DERIVED),
        ({"VolumetricProperties": "DISTORTED"}, Reason.ALREADY_DERIVED),
        ({"FrameType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MAXIMUM"]}, Reason.ALREADY_DERIVED),
        ({"FrameType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, Reason.QUANTITATIVE),
        ({"ComplexImageComponent": "PHASE"}, Reason.QUANTITATIVE),
        ({"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}, Reason.LOCALIZER),
    ],
)
def test_what_is_no_acquired_volume_is_refused_by_name(tmp_path, facts, reason):
    write_enhanced(tmp_path / "x.dcm", [(ARRAY, AFFINE, facts)])
    assert reasons(tmp_path) == {reason}


def test_a_missing_frame_is_a_gap(tmp_path):
    write_enhanced(tmp_path / "x.dcm", [(ARRAY, AFFINE, {})], order=[k for k in range(N) if k != 5])
    assert reasons(tmp_path) == {Reason.GAP}


def test_a_header_that_claims_a_million_frames_costs_little(tmp_path):
    write_enhanced(
        tmp_path / "x.dcm", [(ARRAY, AFFINE, {})], edit=lambda ds: setattr(ds, "NumberOfFrames", 10**6)
    )  # fmt: skip
    assert reasons(tmp_path) == {Reason.ENHANCED_UNSUPPORTED}


@pytest.mark.parametrize("count", [4, 12, 16])
def test_a_mosaic_comes_apart(tmp_path, count):
    """Slices are counted along the rows of tiles; two images of the series are two time points."""
    array, affine = ramp_series(shape=(36, 32, count))
    for i in range(2):
        ds = as_mosaic(array + 1000 * i, affine, AcquisitionNumber=i + 1, SOPInstanceUID=f"1.2.{i}")
        (tmp_path / f"{i}.dcm").write_bytes(dataset_bytes(ds))
    for i, volume in enumerate(volumes(tmp_path).values()):
        assert_same(volume, array + 1000 * i, affine)


def test_a_mosaic_whose_header_is_gone_is_refused(tmp_path):
    """Without it nobody knows in which direction the slices follow each other."""
    (tmp_path / "x.dcm").write_bytes(dataset_bytes(as_mosaic(ARRAY, AFFINE, with_header=False)))
    assert reasons(tmp_path) == {Reason.ENHANCED_UNSUPPORTED}
