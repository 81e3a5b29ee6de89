# SPDX-License-Identifier: Apache-2.0
"""Rows of the fault matrix that are about input: what must work gives the exact volume, the rest a named refusal.

Each test judges by the truth of the synthetic series: either every voxel and its place are right, or the reason is
the expected one. Nothing in between.
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from scripts.dicom import tree
from scripts.dicom.discovery import Discovered, discover
from scripts.dicom.reading import read_series
from scripts.reasons import CaseError, Reason

from tests.dicom.synthetic import (
    DEFLATED,
    dataset_bytes,
    drop,
    ramp_series,
    set_pixels,
    slice_dataset,
    write_enhanced,
    write_series,
)

ARRAY, AFFINE = ramp_series()
N = ARRAY.shape[2]


def found_in(folder: Path) -> Discovered:
    """Discover a tree, and demand that each of its files is in exactly one place."""
    found = discover(folder)
    listed = found.all_paths()
    assert listed == sorted(set(listed))
    there = {Path(d) / name for d, _, names in os.walk(folder) for name in names}
    there |= {p for p in folder.rglob("*") if p.is_symlink()}
    assert set(listed) == there
    return found


def assert_exact(found: Discovered, truths=((ARRAY, AFFINE),)) -> None:
    """The volumes are those that were written, voxel for voxel, place for place."""
    assert not found.refused
    assert len(found.series) == len(truths)
    for candidate, (array, affine) in zip(found.series, truths, strict=True):
        volume = read_series(candidate)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine_ras, affine, atol=1e-4)


def outcome(found: Discovered) -> list[str]:
    """Reasons of all refused series; reading counts as well."""
    reasons = [refused.error.reason for refused in found.refused]
    for candidate in found.series:
        try:
            read_series(candidate)
            reasons.append("OK")
        except CaseError as error:
            reasons.append(error.reason)
    return reasons


def only(k, change):
    """Fault in one slice."""

    def edit(i, ds):
        if i == k:
            change(ds)
        return ds

    return edit


def everywhere(change):
    def edit(i, ds):
        change(i, ds)
        return ds

    return edit


def twin(ds, **facts) -> Dataset:
    """The same image under another UID."""
    import copy

    other = copy.deepcopy(ds)
    other.SOPInstanceUID = generate_uid(entropy_srcs=[ds.SOPInstanceUID, repr(facts)])
    for name, value in facts.items():
        setattr(other, name, value)
    return other


def move(ds, millimetres, direction="normal"):
    orientation = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
    axis = np.cross(*orientation) if direction == "normal" else orientation[1]
    ds.ImagePositionPatient = [f"{v:.6f}" for v in np.array(ds.ImagePositionPatient, dtype=float) + millimetres * axis]


def turn(ds, radians):
    c, s = np.cos(radians), np.sin(radians)
    ds.ImageOrientationPatient = [f"{v:.8f}" for v in (c, s, 0, -s, c, 0)]


def setter(**facts):
    def change(ds):
        for name, value in facts.items():
            if value is None:
                delattr(ds, name)
            else:
                setattr(ds, name, value)

    return change


# name, edit(k, ds), expected reasons of the one series
REFUSED = {
    "1 middle slice missing": (drop(5), Reason.GAP),
    "1 three slices missing in two places": (drop(3, 4, 8), Reason.GAP),
    "1 second slice missing": (drop(1), Reason.GAP),
    "5 duplicate position, other UID": (lambda k, ds: [ds, twin(ds)] if k == 4 else ds, Reason.DUPLICATE_POSITION),
    "5 whole series twice, other UIDs": (lambda k, ds: [ds, twin(ds)], Reason.DUPLICATE_POSITION),
    "5 duplicate with another acquisition number": (
        lambda k, ds: [ds, twin(ds, AcquisitionNumber=2)] if k == 4 else ds,
        Reason.DUPLICATE_POSITION,
    ),
    "8 echo time changes from slice to slice": (
        everywhere(lambda k, ds: setattr(ds, "EchoTime", "90" if k % 2 else "100")),
        Reason.MULTI_ECHO,
    ),
    "8 echo number changes half way": (
        everywhere(lambda k, ds: setattr(ds, "EchoNumbers", 1 + (k > 5))),
        Reason.MULTI_ECHO,
    ),
    "9 time point changes half way": (
        everywhere(lambda k, ds: setattr(ds, "TemporalPositionIdentifier", 1 + (k > 5))),
        Reason.TIME_SERIES,
    ),
    "9 measurements that differ in nothing that says which is which": (
        lambda k, ds: [twin(ds, FlipAngle=str(10 * p), AcquisitionTime="") for p in (1, 2)],
        Reason.TIME_SERIES,
    ),
    "9 b-value changes half way": (
        everywhere(lambda k, ds: setattr(ds, "DiffusionBValue", 1000.0 * (k > 5))),
        Reason.TIME_SERIES,
    ),
    "9 image type changes half way": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND" if k > 5 else "NORM"])),
        Reason.MIXED_ACQUISITION,
    ),
    "10 one slice turned by 3 degrees": (only(4, lambda ds: turn(ds, 0.05)), Reason.MIXED_ORIENTATION),
    "10 every slice turned by another 0.2 degrees": (
        everywhere(lambda k, ds: turn(ds, 0.0035 * k)),
        Reason.MIXED_ORIENTATION,
    ),
    "10 localizer by its own statement": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        Reason.LOCALIZER,
    ),
    "11 sheared by 10 degrees": (everywhere(lambda k, ds: move(ds, k * 6 * 0.176, "column")), Reason.SHEARED),
    "11 sheared by 0.2 degrees": (everywhere(lambda k, ds: move(ds, k * 6 * 0.0035, "column")), Reason.SHEARED),
    "11 one slice shifted sideways": (only(5, lambda ds: move(ds, 0.5, "column")), Reason.SHEARED),
    "12 one gap 1 mm longer": (everywhere(lambda k, ds: move(ds, 1.0 * (k > 5))), Reason.NONUNIFORM),
    "12 one slice 0.2 mm out of place": (only(5, lambda ds: move(ds, 0.2)), Reason.NONUNIFORM),
    "12 spacing grows by 0.5 % a step": (everywhere(lambda k, ds: move(ds, 0.015 * k * k)), Reason.NONUNIFORM),
    "12 two slabs of images without numbers": (
        everywhere(lambda k, ds: (move(ds, 20.0 * (k > 5)), setattr(ds, "InstanceNumber", None))),
        Reason.NONUNIFORM,
    ),
    "14 mixed pixel spacing": (only(5, setter(PixelSpacing=["1.6", "2.0"])), Reason.MIXED_GEOMETRY),
    "14 mixed slice thickness": (only(5, setter(SliceThickness="4")), Reason.MIXED_GEOMETRY),
    "15 no PixelSpacing": (everywhere(lambda k, ds: delattr(ds, "PixelSpacing")), Reason.NO_GEOMETRY),
    "15 one slice without position": (only(5, setter(ImagePositionPatient=None)), Reason.NO_GEOMETRY),
    "15 last slice without position": (only(N - 1, setter(ImagePositionPatient=None)), Reason.NO_GEOMETRY),
    "15 one slice without orientation": (only(0, setter(ImageOrientationPatient=None)), Reason.NO_GEOMETRY),
    "15 empty position": (only(5, setter(ImagePositionPatient="")), Reason.NO_GEOMETRY),
    "15 position with two numbers": (only(5, setter(ImagePositionPatient=["1", "2"])), Reason.NO_GEOMETRY),
    "15 position not a number": (only(5, setter(ImagePositionPatient=["1", "NaN", "2"])), Reason.NO_GEOMETRY),
    "15 zero spacing": (everywhere(lambda k, ds: setattr(ds, "PixelSpacing", ["0", "0"])), Reason.NO_GEOMETRY),
    "15 negative spacing": (everywhere(lambda k, ds: setattr(ds, "PixelSpacing", ["-1.5", "2"])), Reason.NO_GEOMETRY),
    "15 infinite spacing": (everywhere(lambda k, ds: setattr(ds, "PixelSpacing", ["inf", "2"])), Reason.NO_GEOMETRY),
    "16 orientation not orthogonal": (
        everywhere(lambda k, ds: setattr(ds, "ImageOrientationPatient", ["1", "0", "0", "0.1", "0.995", "0"])),
        Reason.NO_GEOMETRY,
    ),
    "16 orientation not of unit length": (
        everywhere(lambda k, ds: setattr(ds, "ImageOrientationPatient", ["1.01", "0", "0", "0", "1.01", "0"])),
        Reason.NO_GEOMETRY,
    ),
    "16 orientation zero": (
        everywhere(lambda k, ds: setattr(ds, "ImageOrientationPatient", ["0", "0", "0", "0", "0", "0"])),
        Reason.NO_GEOMETRY,
    ),
    "23 frames in a classic image": (
        everywhere(lambda k, ds: setattr(ds, "NumberOfFrames", 2)),
        Reason.ENHANCED_UNSUPPORTED,
    ),
    "23 mosaic": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])),
        Reason.ENHANCED_UNSUPPORTED,
    ),
    "25 derived, and says how": (
        everywhere(lambda k, ds: setter(ImageType=["DERIVED", "SECONDARY", "OTHER"], DerivationDescription="x")(ds)),
        Reason.ALREADY_DERIVED,
    ),
    "25 reformatted": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["DERIVED", "SECONDARY", "MPR"])),
        Reason.ALREADY_DERIVED,
    ),
    "25 projection": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["DERIVED", "PRIMARY", "PROJECTION IMAGE"])),
        Reason.ALREADY_DERIVED,
    ),
    "25 apparent diffusion coefficient": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])),
        Reason.QUANTITATIVE,
    ),
    "25 T1 map": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["DERIVED", "PRIMARY", "M", "T1 MAP"])),
        Reason.QUANTITATIVE,
    ),
    "25 phase": (
        everywhere(lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "P", "ND"])),
        Reason.QUANTITATIVE,
    ),
    "27 no pixels in one slice": (only(5, setter(PixelData=None)), Reason.TRUNCATED),
    "27 pixels too short": (only(5, lambda ds: setattr(ds, "PixelData", ds.PixelData[:-100])), Reason.TRUNCATED),
    "27 pixels too long": (only(5, lambda ds: setattr(ds, "PixelData", ds.PixelData + b"\0" * 100)), Reason.TRUNCATED),
    "29 mixed patient": (only(5, setter(PatientID="PHANTOM-2")), Reason.MIXED_PATIENT),
    "29 mixed name": (only(5, setter(PatientName="Phantom^Two")), Reason.MIXED_PATIENT),
    "29 mixed birth date": (only(5, setter(PatientBirthDate="19800101")), Reason.MIXED_PATIENT),
    "29 mixed study": (only(5, setter(StudyInstanceUID="1.2.3")), Reason.MIXED_PATIENT),
    "29 mixed frame of reference": (only(5, setter(FrameOfReferenceUID="1.2.3")), Reason.MIXED_PATIENT),
    "29 one slice without frame of reference": (only(5, setter(FrameOfReferenceUID=None)), Reason.MIXED_PATIENT),
    "35 rescale slope not a number": (only(5, setter(RescaleSlope="NaN", RescaleIntercept="0")), Reason.NONFINITE),
    "35 rescale slope infinite": (only(5, setter(RescaleSlope="inf", RescaleIntercept="0")), Reason.NONFINITE),
    "35 rescale slope zero": (only(5, setter(RescaleSlope="0", RescaleIntercept="0")), Reason.NONFINITE),
    "35 rescale beyond single precision": (
        only(5, setter(RescaleSlope="1e38", RescaleIntercept="0")),
        Reason.NONFINITE,
    ),
    "37 two slices": (drop(*range(2, N)), Reason.TOO_SMALL),
    "37 one slice": (drop(*range(1, N)), Reason.TOO_SMALL),
    "mixed flip angle": (only(5, setter(FlipAngle="30")), Reason.MIXED_ACQUISITION),
    "mixed inversion time": (only(5, setter(InversionTime="300")), Reason.MIXED_ACQUISITION),
}


@pytest.mark.parametrize(("edit", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, edit, reason):
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    reasons = outcome(found_in(tmp_path / "in"))
    assert set(reasons) == {reason}


# name, keywords of write_series: the volume must come out exactly
ACCEPTED = {
    "6 names and numbers in no order": {
        "name": lambda i: f"{zlib.crc32(bytes([i])):08x}",
        "edit": everywhere(lambda k, ds: setattr(ds, "InstanceNumber", zlib.crc32(bytes([k])) % 1000)),
    },
    "6 no instance number": {"InstanceNumber": None},
    "6 empty instance number": {"InstanceNumber": ""},
    "12 positions with 1e-4 mm of noise": {
        "edit": everywhere(lambda k, ds: move(ds, 1e-4 * (-1) ** k)),
    },
    "13 orientation jitters by 1e-4": {
        "edit": everywhere(
            lambda k, ds: setattr(
                ds,
                "ImageOrientationPatient",
                [f"{float(v) + 1e-5 * (-1) ** (k + i):.9f}" for i, v in enumerate(ds.ImageOrientationPatient)],
            )
        ),
    },
    "15 pixel spacing of a wrong type": {
        "edit": everywhere(lambda k, ds: ds.add(pydicom.DataElement("PixelSpacing", "UT", "1.5\\2.0"))),
    },
    "26 no manufacturer": {"Manufacturer": None},
    "33 hostile texts": {"SeriesDescription": "../../etc/'\";\n", "PatientName": "A" * 64, "ProtocolName": "a\\b"},
    "57 overlapping slices": {"SliceThickness": "9"},
    "57 spacing between slices lies": {"SpacingBetweenSlices": "1.0"},
    "57 no thickness": {"SliceThickness": None},
    "57 negative thickness": {"SliceThickness": "-5"},
    "lost frame of reference": {"FrameOfReferenceUID": None},
    "acquisition number differs from slice to slice": {
        "edit": everywhere(lambda k, ds: setattr(ds, "AcquisitionNumber", 1 + k % 2)),
    },
    "echo time jitters": {"edit": everywhere(lambda k, ds: setattr(ds, "EchoTime", f"{90 + 0.01 * (k % 2):.2f}"))},
    "no units": {
        "edit": everywhere(lambda k, ds: setattr(ds, "RealWorldValueMappingSequence", [mapping("1", "no units")])),
    },
}


def mapping(code, meaning):
    units = Dataset()
    units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = code, "UCUM", meaning
    item = Dataset()
    item.MeasurementUnitsCodeSequence = [units]
    return item


@pytest.mark.parametrize("keywords", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(tmp_path, keywords):
    write_series(tmp_path / "in", ARRAY, AFFINE, **keywords)
    assert_exact(found_in(tmp_path / "in"))


def test_02_missing_at_the_end_is_told_by_counts(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=drop(N - 1), ImagesInAcquisition=N)
    found = found_in(tmp_path / "in")
    assert_exact(found, [(ARRAY[:, :, :-1], AFFINE)])
    assert [warning.reason for warning in found.series[0].warnings] == [Reason.COUNT_MISMATCH]
    assert [refused.error.reason for refused in discover(tmp_path / "in", strict=True).refused] == [
        Reason.COUNT_MISMATCH
    ]


def test_02_every_second_slice_missing_is_told_by_numbers(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=drop(*range(1, N, 2)))
    found = found_in(tmp_path / "in")
    assert [warning.reason for warning in found.series[0].warnings] == [Reason.COUNT_MISMATCH]


def test_03_exact_copies_are_counted_and_change_nothing(tmp_path):
    files = write_series(tmp_path / "in" / "a", ARRAY, AFFINE)
    (tmp_path / "in" / "b").mkdir()
    for file in files[:4]:
        (tmp_path / "in" / "b" / file.name).write_bytes(file.read_bytes())
    found = found_in(tmp_path / "in")
    assert_exact(found)
    assert len(found.series[0].copies) == 4


@pytest.mark.parametrize("what", ["pixel", "header"])
def test_04_same_uid_with_other_content(tmp_path, what):
    files = write_series(tmp_path / "in", ARRAY, AFFINE)
    data = bytearray(files[3].read_bytes())
    data[-1 if what == "pixel" else data.index(b"T2 TSE")] ^= 1
    (tmp_path / "in" / "other.dcm").write_bytes(data)
    assert outcome(found_in(tmp_path / "in")) == [Reason.UID_CONFLICT]


def test_04_same_uid_in_two_series(tmp_path):
    write_series(tmp_path / "in" / "a", ARRAY, AFFINE)
    write_series(tmp_path / "in" / "b", ARRAY, AFFINE, SeriesInstanceUID="1.2.3")
    assert outcome(found_in(tmp_path / "in")) == [Reason.UID_CONFLICT] * 2


def test_07_two_series_in_one_folder(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, seed="a", name="a{}")
    write_series(tmp_path / "in", ARRAY + 7, AFFINE, seed="b", name="b{}")
    found = found_in(tmp_path / "in")
    levels = sorted(float(read_series(series).array.min()) for series in found.series)
    assert levels == [ARRAY.min(), ARRAY.min() + 7]
    assert not found.refused


def volumes(found):
    return {series.key.partition("-")[2]: read_series(series) for series in found.series}


def with_level(ds, level, **facts):
    """The same image under another UID, all values raised by ``level``."""
    other = twin(ds, **facts)
    other.PixelData = (np.frombuffer(ds.PixelData, "<u2") + level).astype("<u2").tobytes()
    return other


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("echo", [{"EchoTime": "20", "EchoNumbers": 1}, {"EchoTime": "80", "EchoNumbers": 2}]),
        ("echo", [{"EchoTime": "20"}, {"EchoTime": "80"}]),
        ("echo", [{"EchoNumbers": 1}, {"EchoNumbers": 2}]),
        ("time", [{"TemporalPositionIdentifier": i} for i in (1, 2, 10)]),
        ("time", [{"AcquisitionNumber": i} for i in (1, 2, 10)]),
        ("time", [{"TriggerTime": f"{i}.5"} for i in (5, 60, 700)]),
        ("time", [{"AcquisitionTime": f"10111{i}"} for i in (1, 2, 3)]),
        ("time", [{"AcquisitionTime": "", "InstanceNumber": 100 * i} for i in (1, 2)]),
        ("type", [{"ImageType": ["ORIGINAL", "PRIMARY", "M", kind]} for kind in ("IN_PHASE", "OPP_PHASE")]),
    ],
)
def test_08_09_volumes_of_one_series_are_told_apart(tmp_path, name, facts):
    """Each volume holds one echo, time point or type, in the order of its number."""

    def edit(k, ds):
        numbers = [
            {**one, "InstanceNumber": one["InstanceNumber"] + k} if "InstanceNumber" in one else one for one in facts
        ]
        return [with_level(ds, 1000 * i, **one) for i, one in enumerate(numbers)]

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    found = found_in(tmp_path / "in")
    assert not found.refused
    got = volumes(found)
    assert list(got) == [f"{name}{i + 1}" for i in range(len(facts))]
    for i, volume in enumerate(got.values()):
        np.testing.assert_array_equal(volume.array, ARRAY + 1000 * i)
        np.testing.assert_allclose(volume.affine_ras, AFFINE, atol=1e-4)


GE_B = 0x00431039
SIEMENS = ("SIEMENS", 0x0019100C, "IS", 0x0019100E)
UIH = ("UIH", 0x00651009, "FD", 0x00651037)


@pytest.mark.parametrize("vendor", [None, SIEMENS, UIH], ids=["standard", "siemens", "united imaging"])
@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_09_diffusion_is_told_apart_by_weighting_and_direction(tmp_path, vendor, transfer_syntax):
    """Standard and vendors' attributes; parts are named by b-value, directions numbered as they were acquired."""
    weightings = [(0, None), (1000, (0.0, 1.0, 0.0)), (1000, (1.0, 0.0, 0.0)), (2000, (1.0, 0.0, 0.0))]

    def edit(k, ds):
        images = []
        for i, (b_value, gradient) in enumerate(weightings):
            one = with_level(ds, 1000 * i, InstanceNumber=100 * i + k + 1, Manufacturer=vendor[0] if vendor else "X")
            if vendor is None:
                one.DiffusionBValue = b_value
                if gradient:
                    one.DiffusionGradientOrientation = list(gradient)
            else:
                _, b_tag, b_vr, gradient_tag = vendor
                one.add_new(b_tag & 0xFFFF0000 | 0x10, "LO", "A CREATOR")
                one.add_new(b_tag, b_vr, b_value)
                if gradient:
                    one.add_new(gradient_tag, "FD", list(gradient))
            images.append(one)
        return images

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit, transfer_syntax=transfer_syntax)
    found = found_in(tmp_path / "in")
    assert not found.refused
    got = volumes(found)
    assert list(got) == ["b0", "b1000-direction1", "b1000-direction2", "b2000"]
    for i, volume in enumerate(got.values()):
        np.testing.assert_array_equal(volume.array, ARRAY + 1000 * i)


def test_09_phases_whose_moments_differ_from_slice_to_slice(tmp_path):
    """A heart: each slice has its own trigger times; their order at each position says which phase is which."""

    def edit(k, ds):
        times = [17.0 + 3 * k + (50 + k) * phase for phase in range(3)]
        return [with_level(ds, 1000 * i, TriggerTime=f"{time:.1f}", AcquisitionTime="") for i, time in enumerate(times)]

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    found = found_in(tmp_path / "in")
    got = volumes(found)
    assert list(got) == ["time1", "time2", "time3"]
    for i, volume in enumerate(got.values()):
        np.testing.assert_array_equal(volume.array, ARRAY + 1000 * i)


def test_08_an_echo_that_lacks_a_slice_is_refused_alone(tmp_path):
    def edit(k, ds):
        echoes = [twin(ds, EchoNumbers=1), twin(ds, EchoNumbers=2), twin(ds, EchoNumbers=3)]
        if k == 5:
            del echoes[1]
        if k == N - 1:
            del echoes[-1]
        return echoes

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    found = found_in(tmp_path / "in")
    assert list(volumes(found)) == ["echo1"]
    assert {r.key.partition("-")[2]: r.error.reason for r in found.refused} == {
        "echo2": Reason.GAP,
        "echo3": Reason.COUNT_MISMATCH,
    }


def test_08_every_second_slice_of_an_echo_is_refused(tmp_path):
    """Each echo alone is uniform, at twice the true spacing."""

    def edit(k, ds):
        return [twin(ds, EchoNumbers=1)] + [twin(ds, EchoNumbers=2)] * (k % 2 == 0)

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    found = found_in(tmp_path / "in")
    assert list(volumes(found)) == ["echo1"]
    assert [r.error.reason for r in found.refused] == [Reason.GAP]


def test_09_magnitude_is_taken_phase_is_left(tmp_path):
    def edit(k, ds):
        return [ds, with_level(ds, 500, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])]

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    found = found_in(tmp_path / "in")
    np.testing.assert_array_equal(read_series(found.series[0]).array, ARRAY)
    assert [refused.error.reason for refused in found.refused] == [Reason.QUANTITATIVE]


def test_10_localizer_in_three_orientations(tmp_path):
    for i, rotate in enumerate([(0, 0, 0), (90, 0, 0), (0, 90, 0)]):
        array, affine = ramp_series(shape=(32, 32, 3), rotate=rotate)
        write_series(tmp_path / "in", array, affine, name=f"{i}_{{}}", edit=lambda k, ds, i=i: twin(ds, StudyID=f"{i}"))
    assert outcome(found_in(tmp_path / "in")) == [Reason.MIXED_ORIENTATION]


def test_10_stacks_of_different_angle_are_parted(tmp_path):
    """As through the discs of a spine: five stacks in one series, each a volume of its own."""
    truths = [ramp_series(shape=(36, 32, 4), rotate=(4 * i, 0, 0), offset=3000) for i in range(5)]
    for i, (array, affine) in enumerate(truths):
        write_series(
            tmp_path / "in", array, affine, name=f"{i}_{{}}",
            edit=lambda k, ds, i=i: twin(ds, StudyID=f"{i}", InstanceNumber=4 * i + k + 1),
        )  # fmt: skip
    found = found_in(tmp_path / "in")
    assert [series.key.partition("-")[2] for series in found.series] == [f"stack{i + 1}" for i in range(5)]
    assert len({series.derived_number for series in found.series}) == 5
    for series, (array, affine) in zip(found.series, truths, strict=True):
        volume = read_series(series)
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine_ras, affine, atol=1e-4)


def test_10_parallel_stacks_are_parted_by_place(tmp_path):
    """Beside each other, and behind each other where the images are numbered without a gap."""
    write_series(tmp_path / "beside", ARRAY, AFFINE, edit=everywhere(lambda k, ds: move(ds, 40 * (k > 5), "column")))
    write_series(tmp_path / "behind", ARRAY, AFFINE, edit=everywhere(lambda k, ds: move(ds, 20 * (k > 5))))
    for folder in ("beside", "behind"):
        found = found_in(tmp_path / folder)
        got = volumes(found)
        assert not found.refused
        np.testing.assert_array_equal(got["stack1"].array, ARRAY[:, :, :6])
        np.testing.assert_array_equal(got["stack2"].array, ARRAY[:, :, 6:])
        np.testing.assert_allclose(got["stack1"].affine_ras, AFFINE, atol=1e-4)


@pytest.mark.parametrize("k", [0, 4, N - 1])
def test_10_a_scout_among_the_slices_is_named_and_the_rest_done_where_it_is_whole(tmp_path, k):
    def edit(i, ds):
        scout = twin(ds, ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"], InstanceNumber=0)
        return [ds, scout] if i == k else ds

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    found = found_in(tmp_path / "in")
    assert [(r.key.partition("-")[2], r.error.reason) for r in found.refused] == [("scout1", Reason.LOCALIZER)]
    np.testing.assert_array_equal(read_series(found.series[0]).array, ARRAY)


def test_10_a_slice_that_became_a_scout_leaves_a_gap(tmp_path):
    write_series(
        tmp_path / "in", ARRAY, AFFINE, edit=only(4, setter(ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"]))
    )
    assert sorted(outcome(found_in(tmp_path / "in"))) == [Reason.GAP, Reason.LOCALIZER]


def test_12_uneven_by_one_and_a_half_percent_is_a_warning(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=only(5, lambda ds: move(ds, 0.09)))
    found = found_in(tmp_path / "in")
    assert [warning.reason for warning in found.series[0].warnings] == [Reason.NONUNIFORM]


def test_14_mixed_matrix(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=drop(5))
    write_series(tmp_path / "in", ARRAY[:, :-2], AFFINE, edit=drop(*(k for k in range(N) if k != 5)), name="odd{}")
    assert outcome(found_in(tmp_path / "in")) == [Reason.MIXED_GEOMETRY]


def test_22_lossy_source_is_marked(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, LossyImageCompression="01")
    found = found_in(tmp_path / "in")
    assert_exact(found)
    assert read_series(found.series[0]).meta["lossy"] is True


def test_23_enhanced(tmp_path):
    edit = only(0, setter(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=N))
    write_series(tmp_path / "in", ARRAY[:, :, :1], AFFINE, edit=edit)
    assert outcome(found_in(tmp_path / "in")) == [Reason.ENHANCED_UNSUPPORTED]


def test_24_other_objects_beside_a_series(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE)
    write_series(tmp_path / "in", ARRAY, AFFINE, modality="CT", seed="ct", name="ct{}")
    for k, (sop_class, modality, with_pixels) in enumerate(
        [
            (SecondaryCaptureImageStorage, "OT", True),
            (SecondaryCaptureImageStorage, "MR", True),
            (SegmentationStorage, "SEG", True),
            ("1.2.840.10008.5.1.4.1.1.6.1", "US", True),
            ("1.2.840.10008.5.1.4.1.1.88.11", "SR", False),
            ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", False),
            ("1.2.840.10008.5.1.4.1.1.11.1", "PR", False),
            ("1.2.840.10008.1.3.10", "", False),
        ]
    ):
        ds = slice_dataset(ARRAY, AFFINE, k, SOPClassUID=sop_class, Modality=modality)
        set_pixels(ds, ARRAY[:, :, 0].T, ExplicitVRLittleEndian, bits_allocated=16, bits_stored=16, signed=False)
        if not with_pixels:
            del ds.PixelData, ds.Rows, ds.Columns
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, ds.SOPInstanceUID
        (tmp_path / "in" / f"other{k}").write_bytes(dataset_bytes(ds))
    found = found_in(tmp_path / "in")
    assert_exact(found)
    reasons = {file.path.name: file.error.reason for file in found.files}
    assert [reasons[f"other{k}"] for k in range(8)] == [Reason.NOT_MR] * 4 + [Reason.NOT_AN_IMAGE] * 4
    assert {reasons[f"ct{k}"] for k in range(N)} == {Reason.NOT_MR}


def test_24_ct_is_found_when_ct_is_wanted(tmp_path):
    write_series(tmp_path / "in", ARRAY, AFFINE, modality="CT")
    volume = read_series(discover(tmp_path / "in", "CT").series[0])
    np.testing.assert_array_equal(volume.array, ARRAY - 1024)
    assert not discover(tmp_path / "in", "MR").series


def test_25_derived_from_nothing_that_is_named_is_a_warning(tmp_path):
    """Filters, anonymisers and some scanners write DERIVED, SECONDARY into acquired images."""
    write_series(tmp_path / "in", ARRAY, AFFINE, ImageType=["DERIVED", "SECONDARY", "OTHER"])
    found = found_in(tmp_path / "in")
    assert_exact(found)
    assert [warning.reason for warning in found.series[0].warnings] == [Reason.ALREADY_DERIVED]


def test_25_colour_is_no_mr(tmp_path):
    edit = everywhere(lambda k, ds: setter(SamplesPerPixel=3, PhotometricInterpretation="RGB")(ds))
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    assert {file.error.reason for file in found_in(tmp_path / "in").files} == {Reason.NOT_MR}


def test_25_map_by_its_units(tmp_path):
    edit = everywhere(lambda k, ds: setattr(ds, "RealWorldValueMappingSequence", [mapping("ms", "milliseconds")]))
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    assert outcome(found_in(tmp_path / "in")) == [Reason.QUANTITATIVE]


@pytest.mark.parametrize("code", ["113085", "123110"])
def test_25_our_own_output_by_its_derivation(tmp_path, code):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", "x"
    write_series(tmp_path / "in", ARRAY, AFFINE, DerivationCodeSequence=[item])
    assert outcome(found_in(tmp_path / "in")) == [Reason.ALREADY_DERIVED]


def test_26_things_that_are_no_dicom_files(tmp_path):
    root = tmp_path / "in"
    write_series(root, ARRAY, AFFINE)
    (root / "notes.txt").write_text("text")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "empty.dcm").write_bytes(b"")
    (root / "folder.dcm").mkdir()
    os.mkfifo(root / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # a socket's path must be short
        try:
            server.bind("s.dcm")
        finally:
            os.chdir(here)
    start = time.perf_counter()
    found = found_in(root)
    assert time.perf_counter() - start < 5
    assert_exact(found)
    reasons = {file.path.name: file.error.reason for file in found.files}
    assert reasons == {
        "notes.txt": Reason.NOT_AN_IMAGE,
        ".DS_Store": Reason.NOT_AN_IMAGE,
        "empty.dcm": Reason.NOT_AN_IMAGE,
        "pipe.dcm": Reason.NOT_A_FILE,
        "s.dcm": Reason.NOT_A_FILE,
    }


@pytest.mark.parametrize("encoding", [ExplicitVRLittleEndian, "1.2.840.10008.1.2.5", DEFLATED])
@pytest.mark.parametrize("k", [5, N - 1])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.9, 0.99])
def test_27_a_file_cut_anywhere_refuses_its_series(tmp_path, part, k, encoding):
    """Also where the slice is the last, and where so little is left that the file cannot tell its series."""

    def cut(i, data):
        return data[: max(int(len(data) * part), 133)] if i == k else data

    write_series(tmp_path / "in", ARRAY, AFFINE, edit_file=cut, transfer_syntax=encoding)
    assert outcome(found_in(tmp_path / "in")) == [Reason.TRUNCATED]


def test_27_a_cut_file_among_several_series_is_told(tmp_path):
    """Nobody knows whose it is: both series say that a slice may be missing."""
    write_series(tmp_path / "in", ARRAY, AFFINE, seed="a", name="a{}")
    files = write_series(tmp_path / "in", ARRAY, AFFINE, seed="b", name="b{}")
    files[-1].write_bytes(files[-1].read_bytes()[:400])
    found = found_in(tmp_path / "in")
    assert [file.error.reason for file in found.files] == [Reason.TRUNCATED]
    assert [[w.reason for w in series.warnings] for series in found.series] == [[Reason.COUNT_MISMATCH]] * 2
    assert {r.error.reason for r in discover(tmp_path / "in", strict=True).refused} == {Reason.COUNT_MISMATCH}


def test_30_50_one_series_in_several_folders(tmp_path):
    write_series(tmp_path / "in" / "x" / "y", ARRAY, AFFINE, edit=drop(*range(0, 6)))
    write_series(tmp_path / "in" / "z", ARRAY, AFFINE, edit=drop(*range(6, N)))
    assert_exact(found_in(tmp_path / "in"))


def test_31_an_unreadable_file_refuses_its_series(tmp_path, monkeypatch):
    files = write_series(tmp_path / "in", ARRAY, AFFINE)
    real = os.open

    def refuse(path, *args, **kwargs):
        if str(path) == str(files[-1]):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert [refused.error.reason for refused in found_in(tmp_path / "in").refused] == [Reason.UNREADABLE]


def test_31_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "in", ARRAY, AFFINE)
    (tmp_path / "in" / "closed").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(tree.os, "scandir", refuse)
    found = discover(tmp_path / "in")
    assert_exact(found)
    assert [(file.path.name, file.error.reason) for file in found.files] == [("closed", Reason.UNREADABLE)]


def test_31_54_a_file_that_vanishes_or_changes(tmp_path):
    files = write_series(tmp_path / "in", ARRAY, AFFINE)
    found = discover(tmp_path / "in")
    data = files[4].read_bytes()
    files[4].unlink()
    assert outcome(found) == [Reason.CHANGED]
    files[4].write_bytes(data[:-2] + b"\1\1")
    os.utime(files[4], ns=(1, 1))
    assert outcome(found) == [Reason.CHANGED]


def test_32_links_are_not_followed(tmp_path):
    root = tmp_path / "in"
    write_series(root / "a", ARRAY, AFFINE)
    write_series(tmp_path / "outside", ARRAY, AFFINE, seed="outside")
    (root / "loop").symlink_to(root)
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "IM0000.dcm")
    (root / "inner").symlink_to(root / "a" / "IM0000.dcm")
    (root / "broken").symlink_to(root / "nowhere")
    found = found_in(root)
    assert_exact(found)
    assert {file.path.name for file in found.files} == {"loop", "out", "file", "inner", "broken"}
    assert {file.error.reason for file in found.files} == {Reason.NOT_A_FILE}


def test_33_strange_file_names(tmp_path):
    write_series(tmp_path / "in" / "ä\n'\"", ARRAY, AFFINE, name=lambda i: os.fsdecode(b"\xff\xfe%d\n;" % i))
    found = found_in(tmp_path / "in")
    assert_exact(found)
    assert found.series[0].key.isalnum()


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (["GB18030"], b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
        (None, b"M\xfcller^J\xf6rg"),
        (["NONSENSE"], b"M\xfcller"),
    ],
)
def test_34_character_sets(tmp_path, charset, name):
    def edit(k, ds):
        ds.PatientName = "x" * (len(name) + len(name) % 2)
        return ds

    def edit_file(k, data):
        padded = name + b" " * (len(name) % 2)
        old = b"x" * len(padded)
        assert data.count(old) == 1
        return data.replace(old, padded).replace(b"ISO_IR 192", charset_bytes)

    charset_bytes = ("\\".join(charset or [])[:10]).ljust(10).encode()
    if charset and len("\\".join(charset)) > 10:
        charset_bytes = b"ISO_IR 192"  # longer than the place: set through pydicom below
        write_series(
            tmp_path / "in", ARRAY, AFFINE, SpecificCharacterSet=charset, PatientName="\u5c71\u7530^\u592a\u90ce"
        )
    else:
        write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit, edit_file=edit_file)
    assert_exact(found_in(tmp_path / "in"))


def test_37_sizes(tmp_path):
    one_pixel = np.full((1, 1, 3), 7, dtype=np.int32)
    write_series(tmp_path / "in", one_pixel, AFFINE)
    assert_exact(found_in(tmp_path / "in"), [(one_pixel, AFFINE)])
    assert [r.error.reason for r in discover(tmp_path / "in", max_voxels=2).refused] == [Reason.TOO_LARGE]


@pytest.mark.slow
def test_37_two_thousand_slices(tmp_path):
    many = np.arange(2000, dtype=np.int32).reshape(1, 1, 2000) + np.zeros((2, 3, 1), dtype=np.int32)
    write_series(tmp_path / "in", many, np.diag([1.0, 1.0, 0.7, 1.0]))
    assert_exact(found_in(tmp_path / "in"), [(many, np.diag([1.0, 1.0, 0.7, 1.0]))])


def test_38_a_header_that_claims_too_much(tmp_path):
    edit = everywhere(lambda k, ds: setter(Rows=65535, Columns=65535)(ds))
    write_series(tmp_path / "in", ARRAY, AFFINE, edit=edit)
    assert set(outcome(found_in(tmp_path / "in"))) <= {Reason.TOO_LARGE, Reason.TRUNCATED}


def test_38_a_deflated_bomb_costs_little(tmp_path):
    """It inflates to 1 GB; the limit is an eighth of that."""
    import resource

    write_series(tmp_path / "in", ARRAY, AFFINE)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflater.compress(b"\0" * 2**24) for _ in range(64)) + deflater.flush()
    header = slice_dataset(ARRAY, AFFINE, 0, seed="bomb")
    set_pixels(header, ARRAY[:, :, 0].T, DEFLATED, bits_allocated=16, bits_stored=16, signed=False)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    data = dataset_bytes(header)
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    (tmp_path / "in" / "bomb").write_bytes(data[:meta_end] + bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = found_in(tmp_path / "in")
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
    assert [file.error.reason for file in found.files] == [Reason.TOO_LARGE]
    assert_exact(found)


def test_54_a_series_that_is_still_being_received(tmp_path, monkeypatch):
    write_series(tmp_path / "in" / "done", ARRAY, AFFINE, seed="done")
    files = write_series(tmp_path / "in" / "growing", ARRAY, AFFINE, seed="growing")
    late = files[-1].read_bytes()
    files[-1].unlink()

    def arrive(seconds):
        assert seconds == 3
        files[-1].write_bytes(late)

    monkeypatch.setattr(tree.time, "sleep", arrive)
    found = discover(tmp_path / "in", stable_seconds=3)
    assert len(found.series) == 1
    assert [refused.error.reason for refused in found.refused] == [Reason.CHANGED]


def test_58_long_and_odd_decimal_strings(tmp_path):
    """Longer than 16 characters, with exponents, signs and blanks."""
    forms = (lambda v: f"{v:.17f}", lambda v: f" {v:.12e} ", lambda v: f"{v:+.12f}")

    def spell(k, ds):
        from pydicom.dataelem import RawDataElement
        from pydicom.tag import Tag

        values = np.array(ds.ImagePositionPatient, dtype=float)
        text = "\\".join(form(v) for form, v in zip(forms, values, strict=True)).encode()
        text += b" " * (len(text) % 2)
        ds[0x00200032] = RawDataElement(Tag(0x00200032), "DS", len(text), text, 0, False, True)

    write_series(tmp_path / "in", ARRAY, AFFINE, edit=everywhere(spell))
    assert_exact(found_in(tmp_path / "in"))


@pytest.mark.slow
def test_59_no_patient_data_in_any_message(tmp_path, caplog, capfd, recwarn):
    """A canary in every text element of good and bad files."""
    canary = "CANARY"
    texts = {
        "PatientName": f"{canary}^X",
        "PatientID": canary,
        "AccessionNumber": canary,
        "StudyID": canary,
        "SeriesDescription": canary,
        "Manufacturer": canary,
        "BodyPartExamined": canary,
        "ScanningSequence": canary,
        "PatientBirthDate": canary,
        "ReferringPhysicianName": canary,
        "StudyDate": canary,
    }
    root = tmp_path / "in"
    for i, (edit, _) in enumerate(REFUSED.values()):
        write_series(root / str(i), ARRAY[:, :, :N], AFFINE, seed=str(i), edit=edit, **texts)
    write_series(
        root / "kind", ARRAY, AFFINE, seed="k", **texts, edit=only(2, setter(Modality=canary, ImageType=canary))
    )
    frame = {"FrameType": ["ORIGINAL", canary, canary, canary], "StackID": canary}
    for i, (edit, said_of_frame) in enumerate(
        [
            (None, frame),
            (lambda ds: setattr(ds, "NumberOfFrames", 3), frame),
            (lambda ds: setattr(ds, "ProtocolName", canary), {**frame, "ComplexImageComponent": canary}),
            (None, {**frame, "VolumetricProperties": canary}),
        ]
    ):
        write_enhanced(root / "frames" / f"{i}.dcm", [(ARRAY, AFFINE, said_of_frame)], edit=edit, seed=f"f{i}", **texts)
    write_series(root / "class", ARRAY, AFFINE, seed="c", **texts, SOPClassUID=canary)
    write_series(root / "number", ARRAY, AFFINE, seed="n", **texts, edit=only(2, setter(EchoTime=None)))
    caplog.clear()
    capfd.readouterr()
    recwarn.clear()
    found = found_in(root)
    said = [str(one.error) for one in (*found.refused, *found.files)]
    said += [str(warning) for series in found.series for warning in series.warnings]
    said += [one.key for one in (*found.series, *found.refused)]
    for series in found.series:
        try:
            said.append(repr(read_series(series).meta))
        except CaseError as error:
            said.append(str(error))
    out, err = capfd.readouterr()
    said += [out, err, caplog.text, *(str(warning.message) for warning in recwarn)]
    assert len(found.refused) > len(REFUSED) / 2
    assert canary not in "\n".join(said)


def test_60_bad_series_never_stop_the_rest(tmp_path):
    small = ARRAY[:4, :4, :5]
    for i in range(60):
        edit = drop(2) if i in (7, 21, 50) else None
        write_series(tmp_path / "in" / f"{zlib.crc32(bytes([i])):08x}", small, AFFINE, seed=str(i), edit=edit)
    found = found_in(tmp_path / "in")
    assert len(found.series) == 57
    assert [refused.error.reason for refused in found.refused] == [Reason.GAP] * 3
