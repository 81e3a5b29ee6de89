# SPDX-License-Identifier: Apache-2.0
"""Reader, bundle and writer as operators of the MONAI Deploy App SDK.

The SDK's own reader swaps the pixel spacings and mixes echoes, its bundle operator casts every image to uint8 and
gives it the input's geometry, and it has no writer for MR images. So reading and writing are the bundle's own, and the
bundle operator keeps what the bundle computes. The bundle's folder must be on ``sys.path``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.deploy.core import AppContext, Fragment, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from monai.transforms import SaveImage
from scripts.data.cases import Cases, read_case
from scripts.dicom.discovery import SeriesCandidate
from scripts.dicom.writing import Provenance, write_series
from scripts.inference.evaluator import case_error
from scripts.reasons import CaseError
from scripts.transforms.load import as_meta_tensor
from scripts.transforms.save import AtomicNibabelWriter

__all__ = ["Failures", "ReaderOperator", "SuperResolutionOperator", "WriterOperator"]

Failures = list[tuple[str, CaseError]]


class ReaderOperator(Operator):
    """Read one scan per call, strictly; a refused one goes to ``failures``, and the next call reads the next.

    Args:
        cases: scans of the input folder; give the operator a count condition of ``len(cases.items)``.
        failures: refusals are appended here.

    Output ``image``: ``(1, I, J, K)`` float32 with the meta data of :func:`scripts.transforms.load.as_meta_tensor`, and
    the scan itself as ``source``.
    """

    def __init__(self, fragment: Fragment, *args: Any, cases: Cases, failures: Failures, **kwargs: Any) -> None:
        self.items = iter(cases.items)
        self.failures = failures
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One output."""
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read the next scan and emit it."""
        item = next(self.items)
        name = str(item["case"])
        try:
            _, volume = read_case(item["image"])
        except Exception as error:  # one bad scan must not end the application
            self.failures.append((name, case_error(error)))
            return
        image = as_meta_tensor(volume, name)
        op_output.emit(Image(image.numpy(), {**image.meta, "case": name, "source": item["image"]}), "image")


class SuperResolutionOperator(MonaiBundleInferenceOperator):
    """The SDK's bundle operator, changed so that the result keeps its dtype, grid and affine.

    Output ``pred``: ``(I, J, K)`` on the thin grid, axes as stored, with the result's own meta data.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        app_context: AppContext,
        bundle_path: Path,
        failures: Failures,
        **kwargs: Any,
    ) -> None:
        self.failures = failures
        self.case = ""
        super().__init__(
            fragment,
            *args,
            app_context=app_context,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=bundle_path,
            **kwargs,
        )

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Run the bundle on one scan; a refused one goes to ``failures``."""
        try:
            super().compute(op_input, op_output, context)
        except Exception as error:  # as above
            self.failures.append((self.case, case_error(error)))

    def _init_config(self, config_names: Any) -> None:
        super()._init_config(config_names)
        self.parser["bundle_root"] = str(self.bundle_path)  # the SDK leaves the value of the file
        # the inferer of the bundle computes the other inputs of the network
        for name in set(self._inputs) - {"image"}:
            del self._inputs[name]

    def _receive_input(self, name: str, op_input: Any, context: Any) -> tuple[np.ndarray, dict[str, Any]]:
        image = op_input.receive(name)
        self.case = image.metadata()["case"]
        return image.asnumpy(), image.metadata()

    def _send_output(self, value: MetaTensor, name: str, metadata: Any, op_output: Any, context: Any) -> None:
        op_output.emit(Image(value.numpy()[0], dict(value.meta)), name)


class WriterOperator(Operator):
    """Write one result: a derived series, ``<case>/*.dcm``, for a DICOM series; ``<case>_sr.nii.gz`` for a NIfTI file.

    Args:
        output: folder; only complete results have their final names.
        bundle_path: folder of the bundle, from which the derived series takes its provenance.
        failures: errors of writing are appended here.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, output: Path, bundle_path: Path, failures: Failures, **kwargs: Any
    ) -> None:
        self.output = output
        self.failures = failures
        self.provenance = provenance_of(bundle_path, datetime.now(UTC))
        self.save = SaveImage(
            output_dir=output, output_postfix="sr", output_ext=".nii.gz", output_dtype=None, separate_folder=False,
            resample=False, print_log=False, writer=AtomicNibabelWriter,
        )  # fmt: skip
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input."""
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the result."""
        pred = op_input.receive("pred")
        meta = pred.metadata()
        try:
            if isinstance(meta["source"], SeriesCandidate):
                self._write_series(meta, pred.asnumpy())
            else:
                self.save(MetaTensor(pred.asnumpy()[None], meta=meta))
        except Exception as error:  # as above
            self.failures.append((meta["case"], case_error(error)))
        else:
            logging.getLogger(type(self).__name__).info("%s done", meta["case"])

    def _write_series(self, meta: dict[str, Any], array: np.ndarray) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=self.output) as folder:
            part = Path(folder) / meta["case"]
            affine = np.asarray(meta["affine"], dtype=np.float64)
            write_series(part, array, affine, meta["source"], self.provenance, float(meta["scale_factor"]))
            os.rename(part, self.output / meta["case"])


def provenance_of(bundle: Path, moment: datetime) -> Provenance:
    """Provenance of a derived series.

    The time goes into the digest of the settings, from which UIDs are made, so that the next run, at another time, does
    not give other files the same UIDs.
    """
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    config = (bundle / "configs" / "inference.json").read_bytes()
    return Provenance(
        software=metadata["name"],
        version=metadata["version"],
        model_sha256=hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest(),
        config_sha256=hashlib.sha256(config + moment.isoformat().encode()).hexdigest(),
        derived_at=moment,
    )
