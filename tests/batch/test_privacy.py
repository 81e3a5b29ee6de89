# SPDX-License-Identifier: Apache-2.0
"""A canary in every text element of the source is found nowhere but in the derived DICOM files, where it belongs."""

from __future__ import annotations

import gzip

import pytest
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from tests.batch import trouble
from tests.batch.conftest import thick_series
from tests.dicom.synthetic import drop

CANARY = "ZQXCANARY"
TEXT = [
    "PatientName",
    "PatientID",
    "OtherPatientNames",
    "PatientComments",
    "PatientAddress",
    "EthnicGroup",
    "Occupation",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "StationName",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "StudyID",
    "RequestedProcedureDescription",
    "ImageComments",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "SequenceName",
    "ContrastBolusAgent",
    "BodyPartExamined",
    "DerivationDescription",
    "AdditionalPatientHistory",
    "AdmittingDiagnosesDescription",
    "StudyComments",
    "ScanOptions",
    "PositionReferenceIndicator",
]


def sing(k, ds, fault=None):
    """Canary in every element that holds text, also in private ones."""
    for keyword in TEXT:
        setattr(ds, keyword, f"{CANARY}{k if dictionary_VR(keyword) == 'ST' else ''}"[:16])
    block = ds.private_block(0x0051, f"{CANARY} PRIVATE", create=True)
    block.add_new(0x01, "LO", CANARY)
    for element in ds:
        if element.VR in ("LO", "LT", "ST", "PN", "UT") and element.tag != Tag("SpecificCharacterSet"):
            assert CANARY in str(element.value), element.keyword
    return ds if fault is None else fault(k, ds)


@pytest.mark.slow
def test_canary_stays_where_it_was(tmp_path, batch, troubled):
    folder = tmp_path / "in"
    thick_series(folder / "good", seed="good", edit=sing)
    thick_series(folder / "gap", seed="gap", edit=lambda k, ds: sing(k, ds, drop(4)))
    thick_series(folder / "raise", seed="raise", spacing=(1.0, 1.2, trouble.RAISE), edit=sing)
    thick_series(folder / "crash", seed="crash", spacing=(1.0, 1.2, trouble.CRASH), edit=sing)
    thick_series(folder / "cut", seed="cut", edit=sing, edit_file=lambda k, data: data[:-300] if k == 3 else data)
    (folder / "note.dcm").write_text(CANARY)
    result = batch(inference_configs=str(troubled), progress=True, **{"inference::self_check": True})
    assert result.returncode == 3, result.stderr
    assert CANARY not in result.stdout + result.stderr
    found = 0
    for path in (tmp_path / "out").rglob("*"):
        assert CANARY not in path.name
        if path.is_file() and path.suffix != ".dcm":
            data = path.read_bytes()
            assert CANARY.encode() not in (gzip.decompress(data) if path.suffix == ".gz" else data), path.name
            found += path.suffix in (".gz", ".html", ".csv", ".json")
    assert found >= 6
