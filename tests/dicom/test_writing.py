# SPDX-License-Identifier: Apache-2.0
"""The derived series against its source, against independent readers, and against the validators."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from scripts.dicom.attributes import ACQUISITION, LOSSY, PATIENT_AND_STUDY
from scripts.dicom.checking import check_series, series_affine_ras
from scripts.dicom.discovery import SeriesCandidate, discover
from scripts.dicom.index import index_tree
from scripts.dicom.reading import read_series
from scripts.dicom.uids import derived_uid
from scripts.dicom.writing import Provenance, stored_values, write_series
from scripts.geometry import SliceGrid

from tests.dicom.synthetic import ramp_series, write_enhanced
from tests.dicom.synthetic import write_series as write_source

FACTOR = 4
CANARY = "CANARYX"


def provenance(**facts):
    settings = {
        "software": "a bundle", "version": "1.2.3", "model_sha256": "ab" * 32, "config_sha256": "cd" * 32,
        "derived_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }  # fmt: skip
    return Provenance(**{**settings, **facts})


@pytest.fixture
def case(tmp_path):
    """A source series, the volume on its K-times grid, and the derived series."""

    class Case:
        def __init__(self, edit=None, change=None, **settings):
            array, affine = ramp_series()
            self.source = write_source(
                tmp_path / "source", array, affine, **({"edit": edit} if edit else {}), **settings
            )
            (self.series,) = discover(tmp_path / "source").series
            volume = read_series(self.series)
            self.affine = SliceGrid.over_slab(volume.array.shape[2], FACTOR).thin_affine(volume.affine_ras, 2)
            self.array = np.repeat(volume.array, FACTOR, axis=2) + np.arange(FACTOR * volume.array.shape[2]) % 3
            if change is not None:
                self.array = change(self.array)
            self.written = write_series(
                tmp_path / "derived", self.array, self.affine, self.series, provenance(), FACTOR
            )
            self.slices = [pydicom.dcmread(path) for path in self.written.files]

    return Case


def test_the_checker_finds_nothing_and_the_affine_is_that_of_the_nifti_file(case):
    made = case()
    assert check_series(made.written.files, made.source, made.affine, made.array) == []
    np.testing.assert_allclose(series_affine_ras(made.slices), made.affine, atol=1e-4)


def test_two_other_readers_agree_on_place_and_voxels(case, tmp_path):
    made = case()
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "derived")))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, np.rint(made.array))
    for voxel in ((0, 0, 0), (35, 31, 47), (3, 20, 11)):
        lps = np.asarray(image.TransformIndexToPhysicalPoint([int(v) for v in voxel]))
        np.testing.assert_allclose(lps * [-1, -1, 1], (made.affine @ [*voxel, 1])[:3], atol=1e-4)
    volume = highdicom.get_volume_from_series(made.slices)
    assert volume.spatial_shape[0] == 48
    np.testing.assert_allclose(sorted(volume.spacing), sorted(np.linalg.norm(made.affine[:3, :3], axis=0)), atol=1e-5)


def test_dcm2niix_puts_every_voxel_at_the_same_place(case, tmp_path):
    made = case()
    (tmp_path / "nii").mkdir()
    tool = shutil.which("dcm2niix") or str(Path(sys.prefix) / "bin" / "dcm2niix")
    subprocess.run(
        [tool, "-b", "n", "-z", "n", "-o", tmp_path / "nii", tmp_path / "derived"], check=True, capture_output=True
    )
    (file,) = (tmp_path / "nii").glob("*.nii")
    image = nib.load(file)
    back = np.linalg.inv(image.affine) @ made.affine
    for voxel in ((0, 0, 0), (35, 31, 47), (3, 20, 11)):
        index = back @ [*voxel, 1]
        np.testing.assert_allclose(index[:3], np.rint(index[:3]), atol=1e-3)
        assert image.dataobj[tuple(np.rint(index[:3]).astype(int))] == np.rint(made.array[voxel])


@pytest.mark.system
def test_validators_find_no_error_alone_and_beside_the_source(case):
    made = case()
    for path in made.written.files[:: len(made.written.files) // 6]:
        found = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in found.stdout + found.stderr, found.stderr
    together = [*map(str, made.source), *map(str, made.written.files)]
    found = subprocess.run(["dcentvfy", *together], capture_output=True, text=True, check=False)
    assert not (found.stdout + found.stderr).strip()


@pytest.mark.system
def test_validators_find_no_error_where_an_old_scanner_leaves_things_out(case):
    """As a real archive has it: no frame of reference, no body part, an age of ``0Y``, type 2 attributes missing."""

    def edit(k, ds):
        for keyword in ("FrameOfReferenceUID", "BodyPartExamined", "ScanOptions", "EchoTrainLength", "AccessionNumber"):
            delattr(ds, keyword)
        ds.add(pydicom.DataElement("PatientAge", "AS", "0Y", validation_mode=pydicom.config.IGNORE))
        return ds

    made = case(edit)
    found = subprocess.run(["dciodvfy", made.written.files[0]], capture_output=True, text=True, check=False)
    assert "Error" not in found.stdout + found.stderr, found.stderr
    assert "PatientAge" not in made.slices[0]
    assert len({ds.FrameOfReferenceUID for ds in made.slices}) == 1
    assert check_series(made.written.files, made.source, made.affine, made.array) == []


def derive(series, folder):
    """A derived series of four times as many slices, and what it must hold."""
    volume = read_series(series)
    affine = SliceGrid.over_slab(volume.array.shape[2], FACTOR).thin_affine(volume.affine_ras, 2)
    array = np.repeat(volume.array, FACTOR, axis=2)
    if volume.padding is not None:
        array[np.repeat(volume.padding, FACTOR, axis=2)] = volume.padding_value
    return write_series(folder, array, affine, series, provenance(), FACTOR), array, affine


def assert_valid(files, sources):
    for path in (files[0], files[-1]):
        found = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in found.stdout + found.stderr, found.stderr
    together = [*map(str, sources), *map(str, files)]
    found = subprocess.run(["dcentvfy", *together], capture_output=True, text=True, check=False)
    assert not (found.stdout + found.stderr).strip()


@pytest.fixture
def echoes(tmp_path):
    """An Enhanced MR object of two echoes, and what is derived from each."""
    array, affine = ramp_series()
    parts = [(array + 1000 * i, affine, {"EffectiveEchoTime": time}) for i, time in enumerate((20.0, 80.0))]
    order = np.arange(24).reshape(2, 12).T.ravel()
    source = write_enhanced(tmp_path / "source" / "x.dcm", parts, order=order)
    series = discover(tmp_path / "source").series
    return source, [(one, *derive(one, tmp_path / one.key)) for one in series]


@pytest.mark.system
def test_validators_find_no_error_in_what_comes_from_an_enhanced_object(echoes):
    source, derived = echoes
    assert_valid([path for _, written, _, _ in derived for path in written.files], [source])
    for _, written, _, _ in derived:
        assert_valid(written.files, [source])


def test_a_series_derived_from_frames_names_them(echoes):
    source, derived = echoes
    uid = str(pydicom.dcmread(source).SOPInstanceUID)
    for i, (_, written, array, affine) in enumerate(derived):
        assert check_series(written.files, [source], affine, array) == []
        first = pydicom.dcmread(written.files[0])
        (item,) = first.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == uid
        assert item.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.4.1"
        assert list(item.ReferencedFrameNumber) == list(range(1 + i, 25, 2))
        assert float(first.EchoTime) == (20, 80)[i]
        assert first.ScanningSequence == "SE"
        assert (first.WindowCenter, first.WindowWidth) == (2000, 800)
        assert first.SeriesNumber == 501 + i
        assert first.SeriesDescription == f"T2 TSE echo{i + 1} SR x4 AI"
    uids = [{str(pydicom.dcmread(path).SOPInstanceUID) for path in written.files} for _, written, _, _ in derived]
    assert uids[0].isdisjoint(uids[1])


@pytest.mark.system
@pytest.mark.shared
@pytest.mark.parametrize("name", ["mr_enhanced_philips", "mr_enhanced_siemens_mf", "mr_mosaic_bold"])
def test_validators_find_no_error_in_what_comes_from_real_multi_frame_files(shared_data, tmp_path, name):
    """Alone: the sources themselves are not valid, being anonymised."""
    series = discover(shared_data / "dicom" / name).series[0]
    written, array, affine = derive(series, tmp_path / "derived")
    assert check_series(written.files, series.files, affine, array) == []
    assert_valid(written.files, [])


def test_a_number_that_the_study_already_has_is_not_given_again(tmp_path):
    array, affine = ramp_series()
    write_source(tmp_path / "a", array, affine, seed="a", SeriesNumber=5, StudyInstanceUID="1.2.3")
    write_source(tmp_path / "b", array, affine, seed="b", SeriesNumber=501, StudyInstanceUID="1.2.3")
    write_source(tmp_path / "c", array, affine, seed="c", SeriesNumber=501, StudyInstanceUID="1.2.4")
    numbers = {series.slices[0].path.parent.name: series.derived_number for series in discover(tmp_path).series}
    assert numbers == {"a": 502, "b": 50101, "c": 50101}


def from_index(tmp_path):
    return list(index_tree(tmp_path / "tree", tmp_path / "index").series())


def from_headers(tmp_path):
    return discover(tmp_path / "tree").series


@pytest.mark.parametrize("find", [from_headers, from_index])
def test_what_was_derived_before_takes_no_number_but_what_only_looks_like_it_does(tmp_path, find):
    array, affine = ramp_series()
    write_source(tmp_path / "tree" / "a", array, affine, seed="a", SeriesNumber=5, StudyInstanceUID="1.2.3")
    (alone,) = find(tmp_path)
    first, _, _ = derive(alone, tmp_path / "tree" / "first")
    (again,) = find(tmp_path)
    second, _, _ = derive(again, tmp_path / "second")
    assert [path.read_bytes() for path in second.files] == [path.read_bytes() for path in first.files]
    for path in first.files:
        other = pydicom.dcmread(path)
        other.SeriesInstanceUID = f"2.25.{UUID('4c3e1c2e-6b1d-4c7a-9f5e-0123456789ab').int}"  # drawn at random
        other.save_as(path)
    (beside,) = find(tmp_path)
    assert (again.derived_number, beside.derived_number) == (501, 502)


def test_padding_is_put_back_and_its_tag_kept(tmp_path):
    array, affine = ramp_series()
    array[:6] = -32768

    def pad(_, ds):
        ds.add_new("PixelPaddingValue", "SS", -32768)
        return ds

    write_source(tmp_path / "source", array, affine, edit=pad)
    (series,) = discover(tmp_path / "source").series
    written, _, _ = derive(series, tmp_path / "derived")
    for path in written.files:
        ds = pydicom.dcmread(path)
        assert ds["PixelPaddingValue"].VR == "SS"
        assert ds.PixelPaddingValue == -32768
        assert (ds.pixel_array[:, :6] == -32768).all()
        assert (ds.pixel_array[:, 6:] > 0).all()


@pytest.mark.parametrize(
    ("centre", "width", "photometric", "expected"),
    [
        ("2000", "800", "MONOCHROME2", [2000]),
        (["2000", "1500"], ["800", "300"], "MONOCHROME2", [2000, 1500]),
        ("2000", "800", "MONOCHROME1", [65535 - 2000]),
        ("2000", "0", "MONOCHROME2", None),
        (["2000", "1500"], "800", "MONOCHROME2", None),
    ],
)
def test_windows_are_kept_where_they_are_constant(tmp_path, centre, width, photometric, expected):
    """Every voxel looks as it did: as far from the centre, in the direction that the grey scale runs."""
    array, affine = ramp_series()
    facts = {"WindowCenter": centre, "WindowWidth": width, "PhotometricInterpretation": photometric}
    write_source(tmp_path / "source", array, affine, **facts)
    (series,) = discover(tmp_path / "source").series
    written, _, _ = derive(series, tmp_path / "derived")
    for ds in (pydicom.dcmread(path) for path in written.files):
        assert ("WindowCenter" in ds) == (expected is not None)
        if expected is not None:
            assert [float(value) for value in np.atleast_1d(ds.WindowCenter)] == expected
            assert np.atleast_1d(ds.WindowWidth).tolist() == np.atleast_1d(width).astype(float).tolist()


def test_a_window_of_its_own_for_each_slice_is_none_for_all(tmp_path):
    write_source(
        tmp_path / "source", *ramp_series(), WindowWidth="800",
        edit=lambda k, ds: setattr(ds, "WindowCenter", str(2000 + k)) or ds,
    )  # fmt: skip
    (series,) = discover(tmp_path / "source").series
    written, _, _ = derive(series, tmp_path / "derived")
    assert "WindowCenter" not in pydicom.dcmread(written.files[0])


@pytest.mark.system
def test_validators_find_no_error_in_what_comes_from_a_converted_object(tmp_path):
    classic = write_source(tmp_path / "classic", *ramp_series(), WindowCenter="2000", WindowWidth="800")
    converted = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        [pydicom.dcmread(file) for file in classic],
        series_instance_uid=derived_uid("converted"),
        series_number=9,
        sop_instance_uid=derived_uid("converted", "1"),
        instance_number=1,
    )
    (tmp_path / "source").mkdir()
    converted.save_as(tmp_path / "source" / "x.dcm")
    (series,) = discover(tmp_path / "source").series
    written, array, affine = derive(series, tmp_path / "derived")
    assert_valid(written.files, [tmp_path / "source" / "x.dcm"])
    assert check_series(written.files, series.files, affine, array) == []
    first = pydicom.dcmread(written.files[0])
    assert (first.EchoTime, first.ScanningSequence, first.WindowCenter) == (90, "SE", 2000)


@pytest.mark.parametrize("signed", [False, True])
def test_pixel_representation_is_that_of_the_source(tmp_path, signed):
    write_source(tmp_path / "source", *ramp_series(), signed=signed)
    (series,) = discover(tmp_path / "source").series
    written, _, _ = derive(series, tmp_path / "derived")
    assert pydicom.dcmread(written.files[0]).PixelRepresentation == int(signed)


def test_what_a_reader_looks_for_is_there(case):
    first = case().slices[0]
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "SR"]
    assert first.SeriesDescription == "T2 TSE SR x4 AI"
    assert first.SeriesNumber == 501
    assert "ab" * 32 in first.DerivationDescription
    assert [code.CodeValue for code in first.DerivationCodeSequence] == ["113085", "123110"]
    assert len(first.SourceImageSequence) == 12
    assert first.ContributingEquipmentSequence[0].SoftwareVersions == "1.2.3"
    assert first.SeriesDate == "20260102"
    assert first.StudyDate == "20200102"
    assert float(first.SpacingBetweenSlices) == float(first.SliceThickness) == 1.5


def test_nothing_but_the_listed_attributes_comes_along(case):
    """A canary in every text element of the source, known or private, reaches the derived series by the list alone."""

    def edit(k, ds):
        for keyword in ("OperatorsName", "PerformingPhysicianName", "ImageComments", "StationName", "PatientComments"):
            setattr(ds, keyword, CANARY)
        block = ds.private_block(0x0019, "VENDOR", create=True)
        block.add_new(0x10, "LO", CANARY)
        ds.RequestAttributesSequence = [Dataset()]
        ds.RequestAttributesSequence[0].ScheduledProcedureStepDescription = CANARY
        ds.PatientName = "Known^Person"
        return ds

    made = case(edit)
    allowed = {*PATIENT_AND_STUDY, *ACQUISITION, *LOSSY}
    for ds in made.slices:
        assert CANARY not in str(ds)
        assert ds.PatientName == "Known^Person"
        copied = {e.keyword for e in ds if e.keyword in pydicom.dcmread(made.source[0])}
        made_here = copied - allowed
        assert made_here <= {
            "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "InstanceNumber",
            "Modality", "ImageType", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "PixelSpacing",
            "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient", "Rows",
            "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
            "PixelRepresentation", "PixelData",
        }  # fmt: skip


def test_a_fact_that_differs_from_slice_to_slice_is_left_out(case):
    def edit(k, ds):
        ds.EchoTrainLength = 15 + k % 2
        ds.ImagingFrequency = str(63 + k)
        return ds

    first = case(edit).slices[0]
    assert first["EchoTrainLength"].is_empty
    assert "ImagingFrequency" not in first
    assert first.RepetitionTime == 4000


def test_undershoots_become_signed_and_only_what_does_not_fit_is_clipped_and_counted(case):
    made = case(change=lambda array: array - array.mean())
    assert made.slices[0].PixelRepresentation == 1
    assert made.written.clipped_voxels == 0
    assert check_series(made.written.files, made.source, made.affine, made.array) == []
    values, clipped, _ = stored_values(np.array([[[-40000.0, 0.4, 0.6, 40000.0]]]), [Dataset()])
    assert values.ravel().tolist() == [-32768, 0, 1, 32767]
    assert clipped == 2


def test_a_constant_rescale_is_kept_and_inverted(case):
    def edit(k, ds):
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "0.5", "-7", "US"
        return ds

    made = case(edit)
    assert float(made.slices[0].RescaleSlope) == 0.5
    assert check_series(made.written.files, made.source, made.affine, made.array) == []


def test_a_rescale_per_slice_becomes_one_scale(case):
    def edit(k, ds):
        ds.RescaleSlope, ds.RescaleIntercept = str(1 + k / 4), "0"
        return ds

    made = case(edit)
    assert "RescaleSlope" not in made.slices[0]
    assert check_series(made.written.files, made.source, made.affine, made.array) == []


def test_identifiers_follow_from_what_they_name(case, tmp_path):
    made = case()
    again = write_series(tmp_path / "again", made.array, made.affine, made.series, provenance(), FACTOR)
    for a, b in zip(made.written.files, again.files, strict=True):
        assert a.read_bytes() == b.read_bytes()
    for change in ({"model_sha256": "00" * 32}, {"config_sha256": "00" * 32}, {"version": "9"}):
        other = write_series(tmp_path / str(change), made.array, made.affine, made.series, provenance(**change), FACTOR)
        uids = {str(pydicom.dcmread(path).SOPInstanceUID) for path in other.files}
        assert uids.isdisjoint(str(ds.SOPInstanceUID) for ds in made.slices)
    assert derived_uid("ab", "c") != derived_uid("a", "bc")
    assert pydicom.uid.UID(derived_uid("x")).is_valid
    assert len(derived_uid("x")) <= 64


def test_a_long_description_keeps_its_mark(case):
    def edit(k, ds):
        ds.SeriesDescription = "x" * 64
        return ds

    description = case(edit).slices[0].SeriesDescription
    assert len(description) == 64
    assert description.endswith(" SR x4 AI")


def test_lossy_stays_lossy(case):
    def edit(k, ds):
        ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "10"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
        return ds

    assert case(edit).slices[0].LossyImageCompression == "01"


def test_nonsense_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="array must be a finite"):
        write_series(
            tmp_path / "x", np.full((2, 2, 2), np.nan), np.eye(4), SeriesCandidate("x", ()), provenance(), FACTOR
        )
    assert not (tmp_path / "x").exists()
