# SPDX-License-Identifier: Apache-2.0
"""Run the inference on one series: from a task to a folder with the result and a record.

Doing a task twice, on any machine, gives the same folder: a finished and unchanged result is kept, and a new result has
the same bytes. Pixels are decoded only here, in isolated processes (:mod:`.isolation`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

from ..data.cases import Cases
from ..dicom.discovery import SeriesCandidate
from ..dicom.error_map import write_error_map
from ..dicom.writing import Provenance, write_series
from ..files import sha256, write_json, write_once
from ..geometry import Orientation, voxel_spacing_mm
from ..inference.evaluator import CaseEvaluator, case_error
from ..quality.words import faults_in_words
from ..reasons import CaseError, Reason
from .html import PICTURES
from .pictures import make_pictures
from .report import RECORD, SeriesRecord, Status
from .staging import publish, sync
from .tasks import Task, WorkerSpec

__all__ = ["Pipeline", "process"]

ACQUIRED = "_acquired.nii.gz"
ERROR_MAP = "error_map.dcm"
VOLATILE = ("bundle_root", "dataset_dir", "output_dir", "ckpt_path", "progress", "cases", "imports", "_desc_")


class Pipeline:
    """The inference workflow of the bundle, one case at a time.

    Args:
        spec: see :class:`~.tasks.WorkerSpec`.
        stage: folder that the workflow writes to.
    """

    def __init__(self, spec: WorkerSpec, stage: Path) -> None:
        self.stage = stage
        self.pictures = spec.pictures
        self.workflow = ConfigWorkflow(
            config_file=list(spec.configs),
            workflow_type="infer",
            logging_file=False,
            **{
                **spec.ids,
                "bundle_root": spec.bundle_root,
                "output_dir": str(stage),
                "cases": {"_target_": "scripts.data.cases.Cases", "items": [{}]},
            },
        )
        raw = {key: value for key, value in self.workflow.parser.get().items() if key not in VOLATILE}
        self.config_sha256 = hashlib.sha256(json.dumps(raw, sort_keys=True, default=str).encode()).hexdigest()
        self.workflow.initialize()
        parser = self.workflow.parser
        self.model_sha256 = sha256(Path(parser.get_parsed_content("ckpt_path")))
        self.software = str(raw.get("_meta_", {}).get("name", "unknown"))
        self.versions = {
            "bundle": str(raw.get("_meta_", {}).get("version", "unknown")),
            "monai": monai.__version__,
            "torch": str(torch.__version__),
            "pydicom": pydicom.__version__,
            "python": platform.python_version(),
        }
        self.cases: Cases = parser.get_parsed_content("cases")
        self.evaluator: CaseEvaluator = parser.get_parsed_content("evaluator")

    def run(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Process one case and write its files into ``stage``.

        Returns:
            The case: ``image`` (working axes), ``pred`` and its maps (stored axes), ``quality``.

        Raises:
            Exception: any error of the workflow.
        """
        self.cases.items[:] = [dict(item)]
        self.evaluator.run_one(0)
        state = self.evaluator.state
        result = {**state.batch[0], **state.output[0]}
        state.batch = state.output = None
        return result

    def write_dicom(self, result: Mapping[str, Any], series: SeriesCandidate, record: SeriesRecord) -> int:
        """Write the derived series into ``stage/dicom``, and its error map, if there is one, beside it.

        Returns:
            Number of voxels that were clipped to 16 bits.
        """
        pred: MetaTensor = result["pred"]
        affine = np.asarray(pred.meta["affine"], dtype=np.float64).reshape(4, 4)
        provenance = Provenance(
            software=self.software,
            version=self.versions["bundle"],
            model_sha256=self.model_sha256,
            config_sha256=self.config_sha256,
            derived_at=datetime.fromisoformat(str(record.derived_at)),
            interpolated=pred.meta.get("quality", {}).get("result") == "cubic",
        )
        array = pred.as_tensor()[0].cpu().numpy()
        written = write_series(
            self.stage / "dicom", array, affine, series, provenance, float(pred.meta["scale_factor"])
        )
        if "error" in result:
            calibration = (result.get("quality") or {}).get("error_map") or {}
            error = result["error"].as_tensor()[0].cpu().numpy()
            write_error_map(self.stage / ERROR_MAP, error, written.files, calibration.get("coverage"))
        return written.clipped_voxels


def process(pipeline: Pipeline, task: Task) -> SeriesRecord:
    """Do one series and put its folder in place, or find that it is done; an error of the series never raises.

    The returned record has no digests of outputs, which are many; ``record.json`` in the folder has them.
    """
    started = time.perf_counter()
    _reset_peak()
    record = task.record
    try:
        record = _identify(pipeline, task)
        if done := _unchanged(task.final, record):
            return replace(done, status=Status.SKIPPED, outputs={})
        shutil.rmtree(pipeline.stage, ignore_errors=True)
        pipeline.stage.mkdir(mode=0o700)
        ours = pipeline.stage.stat()
        record = replace(record, derived_at=_derivation_time(task, record))
        item = {"image": task.series, "case": task.series.key, "patient": task.series.patient}
        result = pipeline.run(item)
        record = replace(record, clipped_voxels=pipeline.write_dicom(result, task.series, record))
        done = _describe(record, result, pipeline.stage, task.final.name, pipeline.pictures)
        done = replace(done, seconds=round(time.perf_counter() - started, 3), peak_memory_bytes=_peak())
        write_json(pipeline.stage / RECORD, asdict(done), indent=2)
        sync(pipeline.stage)
        if not os.path.samestat(ours, pipeline.stage.stat()):
            raise CaseError(Reason.INTERRUPTED, "a series must be done within its run, but another run has begun")
        publish(pipeline.stage, task.final)
        return replace(done, outputs={})
    except Exception as error:  # isolation is the purpose
        cause = case_error(error)
        shutil.rmtree(pipeline.stage, ignore_errors=True)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        record = replace(record, status=_status_of(cause), reason=str(cause.reason), message=cause.message)
        return replace(record, seconds=round(time.perf_counter() - started, 3), peak_memory_bytes=_peak())


def _status_of(error: CaseError) -> Status:
    """A fault of the scan is a refusal; a fault of the machine is a failure."""
    if error.reason is Reason.OOM:
        return Status.OOM
    return Status.FAILED if error.reason in (Reason.INTERNAL, Reason.UNWRITABLE, Reason.INTERRUPTED) else Status.REFUSED


def _identify(pipeline: Pipeline, task: Task) -> SeriesRecord:
    """Add the digests of everything that decides the result to the record."""
    try:
        digests = [sha256(path) for path in task.series.files]
    except FileNotFoundError as error:
        message = "a series must stay where it is while it is read, but a file is gone; run again"
        raise CaseError(Reason.CHANGED, message) from error
    except OSError as error:
        message = f"a DICOM file must be readable, got {type(error).__name__}; check the storage"
        raise CaseError(Reason.UNREADABLE, message) from error
    return replace(
        task.record,
        input_sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
        model_sha256=pipeline.model_sha256,
        config_sha256=pipeline.config_sha256,
        versions=pipeline.versions,
    )


IDENTITY = ("input_sha256", "model_sha256", "config_sha256", "versions")


def _unchanged(final: Path, record: SeriesRecord) -> SeriesRecord | None:
    """Record of an earlier run, if input, model, config, versions and outputs are all unchanged; else ``None``."""
    try:
        old = json.loads((final / RECORD).read_text())
        if any(old.get(key) != getattr(record, key) for key in IDENTITY):
            return None
        done = SeriesRecord(**{**old, "source": record.source, "n_files": record.n_files})
        for name, digest in done.outputs.items():
            if sha256(final.parent / name) != digest:
                return None
    except (OSError, ValueError, TypeError):
        return None
    return done


def _derivation_time(task: Task, record: SeriesRecord) -> str:
    """Time of derivation (UTC) of one job: taken once, stored before any result is written, and never changed.

    The identifiers of a derived series are hashes of its inputs. One identifier must never name different bytes, so
    every run of the same job, later or at the same time, must write the same dates.
    """
    job = json.dumps([getattr(record, key) for key in IDENTITY], sort_keys=True)
    path = task.jobs / f"{task.final.name}-{hashlib.sha256(job.encode()).hexdigest()[:16]}"
    path.parent.mkdir(exist_ok=True)
    return write_once(path, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00"))


def _describe(record: SeriesRecord, result: Mapping[str, Any], stage: Path, folder: str, pictures: int) -> SeriesRecord:
    """The record of a finished series, and its pictures."""
    image, pred = result["image"], result["pred"]
    meta = image.meta
    thick_axis = int(meta["thick_axis"])
    shape = list(pred.shape[1:])
    slices_in, slices_out = int(image.shape[-1]), shape[thick_axis]
    affine = np.asarray(pred.meta["affine"], dtype=np.float64).reshape(4, 4)
    shape_before = [slices_in if axis == thick_axis else n for axis, n in enumerate(shape)]
    before = np.asarray(meta["acquired_affine"], dtype=np.float64).reshape(4, 4)
    if pictures:
        made = make_pictures(image, pred, result.get("error", result.get("disagreement")), before, thick_axis, pictures)
        made["map_name"] = "error" if "error" in result else "disagreement"
        (stage / PICTURES).write_text(json.dumps(made))
    _write_acquired(stage / f"{record.series}{ACQUIRED}", image, before, thick_axis)
    thickness_mm = float(meta["slice_thickness_mm"])  # NaN if the headers do not state it
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    outputs = {f"{folder}/{path.relative_to(stage)}": sha256(path) for path in files}

    def only(suffix: str) -> str | None:
        names = [name for name in outputs if name.endswith(suffix)]
        return names[0] if names else None

    return replace(
        record,
        status=Status.OK,
        n_slices_in=slices_in,
        n_slices_out=slices_out,
        geometry_before={
            **_geometry(before, shape_before, thick_axis),
            "slice_thickness_mm": thickness_mm if thickness_mm > 0 else None,
        },
        geometry_after=_geometry(affine, shape, thick_axis),
        nifti=only("_sr.nii.gz"),
        acquired=only(ACQUIRED),
        disagreement=only("_disagreement.nii.gz"),
        error_map=only("_error.nii.gz"),
        error_map_dicom=only(ERROR_MAP),
        dicom_dir=f"{folder}/dicom" if (stage / "dicom").is_dir() else None,
        outputs=outputs,
        clipped_voxels=(record.clipped_voxels or 0) + int(pred.meta.get("clipped_voxels", 0)),
        raised_voxels=int(meta["raised_voxels"]),
        data_consistency_residual=float(meta["data_consistency_residual"]),
        source_facts=_source_facts(meta),
        quality=result.get("quality"),
        warnings=[
            *record.warnings,
            *map(str, meta.get("outside_envelope") or ()),
            *faults_in_words(result.get("quality")),
        ],
    )


def _source_facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the scan from its reader, as :mod:`scripts.transforms.load` lists them."""
    gap = float(meta.get("slice_gap_mm", float("nan")))
    return {
        "lossy": bool(meta.get("lossy", False)),
        "inverted": bool(meta.get("inverted", False)),
        "slice_gap_mm": round(gap, 6) if math.isfinite(gap) else None,
        "body_part": str(meta.get("body_part", "")) or None,
        "padding": "padding_mask" in meta,
    }


def _write_acquired(path: Path, image: MetaTensor, affine_ras: np.ndarray, thick_axis: int) -> None:
    """Write the scan beside its result, so that both can be viewed together wherever the folder is copied."""
    array = Orientation.of(affine_ras, thick_axis).undo(image.as_tensor().cpu())[0].numpy()
    dtype = np.dtype(str(image.meta["stored_dtype"]))
    array = np.rint(array).astype(dtype) if dtype.kind in "iu" else array.astype(np.float32)
    nib.save(nib.Nifti1Image(array, affine_ras, dtype=array.dtype), path)


def _geometry(affine_ras: np.ndarray, shape: Sequence[int], thick_axis: int) -> dict[str, Any]:
    return {
        "shape": [int(n) for n in shape],
        "spacing_mm": [round(float(s), 6) for s in voxel_spacing_mm(affine_ras)],
        "thick_axis": thick_axis,
        "affine_ras": [[round(float(v), 9) for v in row] for row in affine_ras],
    }


def _reset_peak() -> None:
    """Start a new high-water mark of resident memory, if the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Highest resident memory since :func:`_reset_peak`, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
